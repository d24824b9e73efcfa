"""From a fingerprint to a plan: nnU-Net's published numbers, and laws of the default whatever its constants are."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.cases import Case, Dataset
from biosegkit.configure import label_table, make_plan
from biosegkit.description import Description
from biosegkit.errors import OptionError, PlanError
from biosegkit.fingerprint_schema import (
    CaseRecord,
    ChannelStatistics,
    ClassRecord,
    Fingerprint,
    ObjectStatistics,
    Spread,
)
from biosegkit.loop import make_network
from biosegkit.plan.draft import Wishes, cpu_patch, draft, with_width
from biosegkit.plan.fine_tuning import draft_like
from biosegkit.plan.schema import LabelTable, Plan
from biosegkit.segmenter import method_of

TABLE = Path(__file__).parents[1] / "benchmarks" / "golden_plans.json"
GOLDEN = json.loads(TABLE.read_text(encoding="utf-8"))["datasets"]
SPREAD = dict.fromkeys(("mean", "minimum", "p05", "median", "p95", "p99", "maximum"), 12.0)


def objects(diameter, ndim):
    spread = Spread(**dict.fromkeys(SPREAD, diameter))
    return ObjectStatistics(count=100, measured=100, per_case=spread, diameter=spread, diameter_px=spread,
                            extent_px=(spread,) * ndim, inscribed_radius=spread, elongation=spread, fill=spread,
                            elongated=0.0, touching=0.1, at_border=0.1, split=0.0, single_voxel=0.0)


def fingerprint(shape, spacing=None, *, task="semantic", cases=5, classes=2, channels=("T1",), unit="mm", size=12.0):
    """What would be measured on equal cases."""
    spacing = spacing or (1.0,) * len(shape)
    record = {"group": "g", "shape": shape, "cropped": shape, "relative_size": 1.0, "spacing": spacing,
              "orientation": "SAR"[-len(shape):], "dtype": "int16", "foreground": 0.1, "ids": 3, "bytes": 1000}
    records = tuple(CaseRecord(id=f"c{i}", **record) for i in range(cases))
    names = [ClassRecord(name=f"k{i}", value=i, voxels=10, cases=cases) for i in range(1, classes)]
    return Fingerprint(unit=unit, task=task, task_reason="because", cases=records,
                       channels=tuple(ChannelStatistics(name=c, high=1.0) for c in channels), classes=tuple(names),
                       objects=objects(size, len(shape)) if task == "instance" else None, relative_size=1.0,
                       foreground=0.1)


def table(found):
    if found.task == "instance":
        return LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    return LabelTable(task="semantic", names=("background", *(c.name for c in found.classes)),
                      values=(0, *(c.value for c in found.classes)))


def plan_of(found, **wishes):
    return draft(found, table(found), "test", Wishes(**wishes))


# --- the presets are nnU-Net ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", GOLDEN)
@pytest.mark.parametrize("preset", ["nnunet", "resenc_m", "resenc_l"])
def test_a_preset_is_the_published_plan(dataset, preset):
    row = GOLDEN[dataset]
    found = fingerprint(tuple(row["median_shape"]), tuple(row["spacing"]), cases=row["cases"], classes=row["classes"],
                        channels=tuple(f"m{i}" for i in range(row["channels"])))
    plan = plan_of(found, preset=preset)
    c = plan.configuration
    assert [list(c.patch), c.batch] == row["3d"][preset]
    assert [list(plan.alternatives["2d"].patch), plan.alternatives["2d"].batch] == row["2d"][preset]
    assert c.spacing == tuple(row["spacing"])
    if preset == "nnunet":
        assert ("3d_lowres" in plan.alternatives) is (row["lowres"] is not None)
        assert ["".join(map(str, s)) for s in c.architecture.strides] == row["strides"]
    assert c.architecture.name == ("unet" if preset == "nnunet" else "resenc_unet")
    assert c.architecture.norm == "instance"
    assert c.tile_step == tuple(max(1, p // 2) for p in c.patch)


def test_a_preset_trains_as_nnunet_does():
    t = plan_of(fingerprint((36, 50, 35)), preset="nnunet").training
    assert (t.optimizer, t.learning_rate, t.momentum, t.weight_decay, t.schedule) == ("sgd", 0.01, 0.99, 3e-5, "poly")
    assert (t.steps, t.clip_norm, t.foreground, t.foreground_per_batch) == (250_000, 12.0, 0.33, True)
    assert t.augmentation.mirror_axes == (0, 1, 2)
    assert (t.augmentation.rotation, t.augmentation.noise, t.augmentation.gamma) == (0.2, 0.1, 0.3)


def test_the_network_of_nnunets_hippocampus_plan_has_its_size():
    found = fingerprint((36, 50, 35), cases=260, classes=3)
    plan = plan_of(found, preset="nnunet")
    network = make_network(plan, method_of(plan), torch.device("cpu"))
    assert sum(p.numel() for p in network.parameters()) == 5_603_177


# --- laws of the default ---------------------------------------------------------------------------------------------


@st.composite
def fingerprints(draw):
    ndim = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 600 if ndim == 2 else 200)) for _ in range(ndim))
    spacing = tuple(draw(st.floats(0.05, 20)) for _ in range(ndim))
    task = draw(st.sampled_from(["semantic", "instance"]))
    unit, size = draw(st.sampled_from(["mm", "um"])), draw(st.floats(1, 300))
    return fingerprint(shape, spacing, task=task, unit=unit, size=size)


@given(fingerprints(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_G7_any_data_have_a_plan_that_is_whole(found, gpu):
    plan = plan_of(found, gpu=gpu)
    c, a = plan.configuration, plan.configuration.architecture
    stages = len(a.strides)
    assert len(a.features) == len(a.kernels) == len(a.encoder_blocks) == stages
    assert len(a.decoder_blocks) == stages - 1
    assert len(c.patch) == len(c.spacing) == len(c.tile_step) == c.ndim == len(a.kernels[0])
    assert all(1 <= s <= p for s, p in zip(c.tile_step, c.patch, strict=True))
    assert c.batch >= 1
    assert all(math.isfinite(s) and s > 0 for s in c.spacing)
    assert sorted(plan.preprocessing.transpose) == list(range(found.ndim))
    assert all(d.reason for d in plan.decisions)
    assert not plan.training.margin or len(plan.training.margin) == c.ndim
    assert Plan.from_data(json.loads(plan.model_dump_json())) == plan
    assert method_of(plan).heads(c.ndim)


@given(fingerprints(), st.sampled_from([8, 16, 20, 32]))
@settings(deadline=None, max_examples=30)
def test_width_changes_features_only(found, width):
    c = plan_of(found).configuration
    wide = with_width(c, width)
    assert wide.architecture.features[0] == width
    assert list(wide.architecture.features) == sorted(wide.architecture.features)
    assert max(wide.architecture.features) <= 320
    same = wide.architecture.model_copy(update={"features": c.architecture.features})
    assert wide.model_copy(update={"architecture": same}) == c


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 500)), min_size=2, max_size=3), st.integers(1000, 200_000))
def test_a_patch_is_bounded_and_within_the_image(axes, voxels):
    spacing, shape = zip(*axes, strict=True)
    patch = cpu_patch(spacing, shape, voxels)
    # edges are rounded up to fours, so the volume may pass the limit by that
    assert all(1 <= p <= n + 3 for p, n in zip(patch, shape, strict=True))
    assert math.prod(max(1, p - 4) for p in patch) <= voxels


def test_anisotropic_data_have_flat_patches_with_slices_first():
    plan = plan_of(fingerprint((20, 320, 319), (3.6, 0.625, 0.625)), config="3d_fullres")
    c = plan.configuration
    assert c.ndim == 3
    assert c.patch[0] < c.patch[1]
    assert c.architecture.strides[1][0] == 1
    assert c.architecture.kernels[0][0] == 1
    # slices last in the file's canonical order are put in front
    turned = plan_of(fingerprint((320, 319, 20), (0.625, 0.625, 3.6)), preset="nnunet")
    assert turned.preprocessing.transpose[0] == 2
    assert turned.configuration.patch == plan_of(fingerprint((20, 320, 319), (3.6, 0.625, 0.625)),
                                                 preset="nnunet").configuration.patch


def test_far_apart_slices_are_planned_in_2d_on_a_cpu_only():
    thick = fingerprint((20, 320, 319), (3.6, 0.625, 0.625))
    assert plan_of(thick).configuration.name == "2d"
    assert plan_of(thick, gpu=True).configuration.name == "3d_fullres"
    assert plan_of(thick, preset="nnunet").configuration.name == "3d_fullres"
    assert plan_of(fingerprint((20, 320, 319), (1.8, 0.625, 0.625))).configuration.name == "3d_fullres"


def test_2d_data_have_2d_plans():
    plan = plan_of(fingerprint((256, 256), unit="px"))
    assert (plan.configuration.name, plan.configuration.ndim) == ("2d", 2)
    assert not plan.preprocessing.resample
    assert plan.preprocessing.unit == "px"


def test_V12_a_stack_of_single_slices_is_planned_as_2d():
    plan = plan_of(fingerprint((1, 128, 128)))
    assert (plan.configuration.ndim, plan.configuration.name) == (2, "2d")
    assert len(plan.preprocessing.transpose) == 3


def test_objects_ask_for_the_distance_method_and_a_margin():
    plan = plan_of(fingerprint((256, 256), task="instance", unit="um", size=14.0))
    assert plan.method == "distance"
    assert all(0 < m <= p // 4 for m, p in zip(plan.training.margin, plan.configuration.patch, strict=True))
    assert plan.training.augmentation.mirror_axes == (0, 1)
    assert plan_of(fingerprint((256, 256))).training.margin == ()


def test_a_body_is_not_mirrored_and_a_micrograph_is():
    assert plan_of(fingerprint((64, 64, 64))).training.augmentation.mirror_axes == ()
    assert plan_of(fingerprint((64, 64, 64), unit="um")).training.augmentation.mirror_axes == (0, 1, 2)


def test_classes_are_bent_and_objects_and_nnunets_presets_are_not():
    classes, objects = fingerprint((64, 64, 64)), fingerprint((256, 256), task="instance", unit="um", size=14.0)
    bent = plan_of(classes).training.augmentation
    assert (bent.elastic, bent.rotation, bent.scaling) == (0.5, 0.5, 0.5)
    assert plan_of(objects).training.augmentation.elastic == 0
    assert plan_of(classes, preset="nnunet").training.augmentation.elastic == 0


def test_ct_is_normalised_as_ct_and_zeros_of_a_camera_are_kept():
    plan = plan_of(fingerprint((64, 64, 64), channels=("CT", "T2")))
    assert [c.scheme for c in plan.preprocessing.channels] == ["ct", "zscore"]
    assert plan.preprocessing.crop_to_nonzero
    assert not plan_of(fingerprint((64, 64, 64), unit="um")).preprocessing.crop_to_nonzero


def test_regions_reach_the_method():
    found = fingerprint((64, 64, 64), classes=4)
    labels = table(found).model_copy(update={"regions": (("whole", (1, 2, 3)), ("core", (2, 3)))})
    plan = draft(found, labels, "test", Wishes())
    assert method_of(plan).heads(3)[0].channels == 2


def test_D4_few_cases_hold_back_more():
    assert plan_of(fingerprint((64, 64, 64), cases=2)).training.validation_fraction >= 0.3
    assert plan_of(fingerprint((64, 64, 64), cases=100)).training.validation_fraction <= 0.2


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "told"), [
    ({"preset": "best"}, r"'best'.*default, nnunet"), ({"config": "3d_cascade"}, r"'3d_cascade'.*2d"),
    ({"config": "3d_lowres"}, r"'3d_lowres'"), ({"method": "distance"}, r"'distance'.*--method or --task"),
])
def test_a_wish_that_does_not_fit_is_refused(wish, told):
    with pytest.raises(PlanError, match=told):
        plan_of(fingerprint((64, 64, 64)), **wish)


@pytest.mark.parametrize("wish", [{"network": "vnet"}, {"method": "magic"}, {"loss": "focall"}, {"preset": "x"},
                                  {"config": "4d"}])
def test_make_plan_refuses_what_does_not_exist(wish):
    found = fingerprint((16, 16), unit="px", task="instance")
    with pytest.raises((PlanError, OptionError), match=next(iter(wish.values()))):
        make_plan(found, dataset(), steps=1, device="cpu", **wish)


def dataset(**about):
    return Dataset((), Description.model_validate(about), "somewhere/cells")


def test_make_plan_takes_the_clock_out_for_steps_and_reasons_everything():
    found = fingerprint((16, 16), unit="px", task="instance")
    plan = make_plan(found, dataset(), steps=7, device="cpu", seed=5)
    assert (plan.training.steps, plan.seed, plan.name, plan.budget.seconds) == (7, 5, "cells", None)
    assert plan.fingerprint == found.hash
    assert {"task", "method", "steps"} <= {d.name for d in plan.decisions}


def test_make_plan_fits_steps_into_the_budget():
    found = fingerprint((16, 16), unit="px", task="instance")
    plan = make_plan(found, dataset(), budget="2m", device="cpu")
    assert plan.budget.seconds == 120
    assert plan.training.steps * plan.budget.step_seconds < 120


def of_groups(found):
    """Every case is a patient."""
    return found.model_copy(update={"cases": tuple(c.model_copy(update={"group": c.id}) for c in found.cases)})


def cases_of(found, split=None):
    """The data set of a fingerprint; a split by name for the last case, the others are to be trained on."""
    rows = tuple(Case(c.id, c.group, (), split=split and ("train" if c is not found.cases[-1] else split))
                 for c in found.cases)
    return Dataset(rows, Description(), "somewhere/cells")


@pytest.mark.parametrize(("found", "budget", "networks"), [
    (of_groups(fingerprint((16, 16), cases=12)), "25m", 5),
    (of_groups(fingerprint((16, 16), cases=12)), "2m", 1),  # too short to share
    (of_groups(fingerprint((16, 16), cases=12)), None, 1),  # --steps: no time to share
    (fingerprint((16, 16), cases=12), "25m", 1),  # one patient
    (of_groups(fingerprint((1024, 1024), cases=40)), "1m", 1),  # every voxel seen a few times
])
def test_time_that_is_long_for_the_cases_is_shared_among_networks(found, budget, networks):
    plan = make_plan(found, cases_of(found), budget=budget, steps=None if budget else 5, device="cpu")
    assert plan.training.folds == networks
    told = [d for d in plan.decisions if d.name == "networks"]
    assert [d.value for d in told] == ([str(networks)] if networks > 1 else [])
    if networks > 1:
        assert make_plan(found, cases_of(found), budget=budget, folds=1, device="cpu").training.folds == 1
        # a table that says who validates leaves nothing to choose
        assert make_plan(found, cases_of(found, "val"), budget=budget, device="cpu").training.folds == 1


def test_label_tables_keep_the_users_values():
    found = fingerprint((16, 16), classes=3)
    labels = label_table(found, dataset(labels={"background": 0, "k1": 1, "k2": 2}))
    assert (labels.names, labels.values) == (("background", "k1", "k2"), (0, 1, 2))


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def like(found, model, **wishes):
    return draft_like(found, table(found), "new", Wishes(**wishes), model)


def test_a_plan_like_a_model_has_its_network_and_the_new_labels():
    """Other sizes, spacings and number of classes would ask for another network."""
    model = plan_of(fingerprint((40, 56, 40), cases=30))
    found = fingerprint((90, 40, 60), (2.0, 1.0, 1.0), classes=4)
    assert plan_of(found).configuration != model.configuration
    plan = like(found, model)
    assert (plan.configuration, plan.preprocessing, plan.method) == (model.configuration, model.preprocessing,
                                                                     model.method)
    assert (plan.labels, plan.method_options["n_classes"]) == (table(found), 4)
    names = [d.name for d in plan.decisions]
    assert "begins with" in names
    assert not {"patch", "batch", "network", "configuration", "stages"} & set(names)
    again = like(found, model, network=model.configuration.architecture.name, method="semantic", seed=3)
    assert (again.configuration, again.seed) == (model.configuration, 3)


def test_planes_of_a_stack_can_begin_with_a_model_of_planes():
    model = plan_of(fingerprint((256, 256), unit="mm", task="instance"), method="distance")
    plan = like(fingerprint((10, 256, 256), (5.0, 1.0, 1.0), task="instance"), model)
    assert plan.configuration == model.configuration
    assert len(plan.training.margin) == plan.configuration.ndim == 2


def test_a_model_that_knows_no_physical_size_is_a_beginning_for_voxels_of_any_unit():
    model = plan_of(fingerprint((512, 512), unit="px", task="instance", size=150.0), method="distance")
    assert model.preprocessing.stored_spacing == (1.0, 1.0)
    plan = like(fingerprint((256, 256), (0.5, 0.5), unit="um", task="instance"), model)
    assert plan.preprocessing == model.preprocessing


@pytest.mark.parametrize(("found", "wishes", "told"), [
    (fingerprint((64, 64)), {}, "2D images of 1 channel"),
    (fingerprint((40, 56, 40), channels=("T1", "T2")), {}, "2 channels"),
    (fingerprint((40, 56, 40), task="instance"), {}, "with instance labels.*--task semantic"),
    (fingerprint((40, 56, 40), unit="px"), {}, "voxels in px"),
    (fingerprint((40, 56, 40)), {"network": "unetplusplus"}, "--network unetplusplus"),
    (fingerprint((40, 56, 40)), {"config": "2d"}, "--config 2d"),
    (fingerprint((40, 56, 40)), {"encoder": "resnet34"}, "--encoder resnet34"),
])
def test_a_model_of_another_kind_is_refused(found, wishes, told):
    model = plan_of(fingerprint((40, 56, 40), cases=30))
    with pytest.raises(OptionError, match=told):
        like(found, model, **wishes)


@pytest.mark.parametrize(("model", "found", "across"), [
    # 150 px wide objects are looked at through larger voxels; a pixel of the new images is taken for one of theirs
    (fingerprint((512, 512), unit="px", task="instance", size=150.0),
     fingerprint((256, 256), (0.5, 0.5), unit="um", task="instance", size=60.0), lambda voxel: 60.0 / voxel),
    # 12 000 nm are 12 um
    (fingerprint((256, 256), unit="um", task="instance"),
     fingerprint((256, 256), (1000.0, 1000.0), unit="nm", task="instance", size=12_000.0), lambda voxel: 12.0 / voxel),
    # pixels of no known size that are not resampled: the width is counted in them
    (fingerprint((256, 256), unit="px", task="instance", size=20.0),
     fingerprint((256, 256), (1.0, 1.0), unit="px", task="instance", size=30.0), lambda voxel: 30.0),
])
def test_the_margin_is_that_of_the_new_objects_in_voxels_of_the_models_network(model, found, across):
    model = plan_of(model, method="distance")
    plan = like(found, model)
    edge = model.configuration.patch[0]
    wanted = min(math.ceil(across(model.configuration.spacing[0]) / 2), 24, edge // 4)
    assert plan.training.margin == (wanted, wanted)
    assert [d.value for d in plan.decisions if d.name == "margin"] == [f"{wanted} × {wanted}"]


def test_augmentation_is_that_of_the_models_patch():
    """Turning by 90 degrees would give patches of another shape than the model's."""
    oblong = plan_of(fingerprint((256, 60), unit="um", task="instance"), method="distance")
    found = fingerprint((256, 256), unit="um", task="instance")
    assert plan_of(found, method="distance").training.augmentation.transpose_axes == (0, 1)
    plan = like(found, oblong)
    assert len(set(plan.configuration.patch)) == 2
    assert plan.training.augmentation.transpose_axes == ()


def test_weights_of_an_encoder_and_of_a_model_are_not_both_taken():
    model = plan_of(fingerprint((256, 256)))
    with pytest.raises(OptionError, match="--encoder-weights together with --from"):
        like(fingerprint((256, 256)), model, encoder_weights="imagenet")
