"""Object size sets the scale: laws of the rule for any data set, and objects of 8, 25 and 300 pixels end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import discs
from test_draft import fingerprint, objects, plan_of

from biosegkit.bundle import load
from biosegkit.cases import scan
from biosegkit.configure import label_table, make_plan
from biosegkit.fingerprint import measure
from biosegkit.fingerprint_schema import Spread
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.methods import METHODS
from biosegkit.metrics.instances import instance_counts
from biosegkit.oracles import crops_of, evidence_of
from biosegkit.plan.draft import Wishes, draft
from biosegkit.plan.method_choice import decided
from biosegkit.plan.scale import (
    ABREAST,
    FIELD,
    FINEST,
    LARGE,
    SMALL,
    THICK,
    WORTH,
    method_lengths,
    scale_of,
    small_patch,
)
from biosegkit.plan.schema import Plan
from biosegkit.prepared import prepare
from biosegkit.preprocess import make_sample
from biosegkit.segmenter import method_of
from biosegkit.train import fit

WIDE = st.floats(1.0, 500.0)
STEP = st.floats(0.1, 10.0)


def spread(value):
    return Spread(**dict.fromkeys(Spread.model_fields, value))


def pixels(size, shape=(512, 512), **more):
    """What is measured of equal objects in images without a physical size."""
    return fingerprint(shape, task="instance", unit="px", size=size, **more)


@settings(max_examples=60, deadline=None)
@given(wide=WIDE, small=st.floats(0.1, 1.0), step=STEP, thick=st.floats(1.0, 6.0), edge=st.integers(16, 2000),
       ndim=st.sampled_from([2, 3]))
def test_laws_of_the_scale(wide, small, step, thick, edge, ndim):
    found = objects(wide, ndim).model_copy(update={
        "diameter": spread(wide).model_copy(update={"p05": wide * small}), "inscribed_radius": spread(wide / 4)})
    spacing, shape = (step * thick, step, step)[-ndim:], (edge,) * ndim
    scale = scale_of(spacing, shape, found, ndim)
    across = wide / step
    if scale is None:
        limits = (across / LARGE[ndim], across * small / SMALL, across / 2 / THICK, edge / FIELD)
        assert min(limits) < WORTH
        assert across > SMALL / WORTH
        return
    assert all(new > 0 for new in scale.spacing)
    factor = scale.spacing[-1] / step
    if factor > 1:  # coarser: never finer on any axis, and everything still has its least size
        assert all(new >= old for new, old in zip(scale.spacing, spacing, strict=True))
        assert across / factor >= LARGE[ndim] * (1 - 1e-9)
        assert across * small / factor >= SMALL * (1 - 1e-9)
        assert across / 2 / factor >= THICK * (1 - 1e-9)
        assert edge / factor >= FIELD * (1 - 1e-9)
    else:
        assert across < SMALL
        assert factor * (1 + 1e-9) >= 1 / FINEST
        assert across / factor <= SMALL * (1 + 1e-9)
        assert all(old / FINEST <= new * (1 + 1e-9) <= old * (1 + 2e-9)
                   for new, old in zip(scale.spacing, spacing, strict=True))


@pytest.mark.parametrize(("size", "spacing"), [(4.0, 0.5), (8.0, 1.0), (25.0, 1.0), (45.0, 1.0), (300.0, 7.5)])
def test_objects_of_any_size_are_seen_at_a_fit_one(size, spacing):
    plan = plan_of(pixels(size, (2048, 2048)))
    assert plan.configuration.spacing == (spacing, spacing)
    assert plan.preprocessing.resample is (spacing != 1.0)
    assert plan.preprocessing.unit == "px"
    assert min(plan.configuration.patch) * spacing >= ABREAST * size
    assert max(plan.training.margin) >= min(24, math.ceil(size / spacing / 2))
    told = {d.name: d for d in plan.decisions}
    assert ("scale" in told) is (spacing != 1.0)
    assert Plan.from_data(plan.model_dump(mode="json")) == plan


def test_physical_and_anisotropic_voxels():
    volumes = fingerprint((40, 400, 400), (5.0, 1.0, 1.0), task="instance", unit="um", size=90.0)
    plan = plan_of(volumes)
    assert plan.configuration.spacing == (5.0, 3.0, 3.0)  # never finer along z
    assert plan.preprocessing.stored_spacing == (5.0, 1.0, 1.0)
    tiny = plan_of(fingerprint((40, 400, 400), (5.0, 1.0, 1.0), task="instance", unit="um", size=4.0),
                   config="3d_fullres")
    assert tiny.configuration.spacing == (5.0, 0.5, 0.5)  # nothing is made up between slices


def test_a_patch_of_volumes_grows_for_three_objects_where_time_allows():
    found = fingerprint((200, 200, 200), task="instance", unit="um", size=18.0)
    usual, short, longer = (math.prod(plan_of(found, seconds=s).configuration.patch) for s in (300, 600, 900))
    assert usual == short < longer <= 1.6 * usual
    assert min(plan_of(found, seconds=900).configuration.patch) >= 3 * 18


def test_presets_and_classes_keep_their_spacing_and_other_plans_their_text():
    large = pixels(300.0, (2048, 2048))
    for preset in ("nnunet", "resenc_l"):
        plan = plan_of(large, preset=preset)
        assert plan.configuration.spacing == (1.0, 1.0)
        assert not plan.preprocessing.resample
    assert "stored_spacing" not in plan_of(pixels(25.0)).model_dump_json()
    semantic = plan_of(fingerprint((64, 64)))
    assert "stored_spacing" not in semantic.model_dump_json()


def test_lengths_of_methods_are_options_they_take():
    found = objects(24.0, 2).model_copy(update={"extent_px": (spread(40.0), spread(80.0))})
    for name in METHODS:
        options = method_lengths(name, found, (1.0, 1.0))
        method = method_of(plan_of(pixels(24.0)).model_copy(update={"method": name, "method_options": options}))
        assert {key: getattr(method, key) for key in options} == options
    assert method_lengths("signed_distance", found, (1.0, 1.0)) == {"length": 4.0}
    assert method_lengths("signed_distance", found, (2.0, 1.5)) == {"length": 4.5}  # a thin ridge stays whole
    assert method_lengths("offset", found, (1.0, 1.0)) == {"scale": 60.0}
    assert method_lengths("flow_eikonal", found, (1.5, 1.0, 1.0)) == {"repulsion": 0.9}
    assert method_lengths("flow_eikonal", found, (5.0, 1.0, 1.0)) == {}
    assert method_lengths("offset", objects(2.0, 2), (0.5, 0.5)) == {"scale": 4.0}


@pytest.mark.parametrize(("across", "ndim", "rays"), [(8.0, 2, 16), (24.0, 2, 20), (300.0, 2, 64), (16.0, 3, 64)])
def test_larger_objects_get_more_rays_and_so_large_a_part_of_an_outline_lies_between_two(across, ndim, rays):
    found = method_lengths("star", objects(across, ndim), (1.0,) * ndim)
    assert found == {"scale": across / 2, "n_rays": rays}
    assert [h.channels for h in METHODS["star"](**found).heads(ndim) if h.name == "distances"] == [rays]


@pytest.mark.parametrize(("shape", "merge"), [({}, False), ({"elongated": 0.6}, True), ({"star_convex": 0.5}, True),
                                              ({"solidity": spread(0.7)}, True)])
def test_polygons_of_long_and_bent_objects_are_merged(shape, merge):
    found = objects(24.0, 2).model_copy(update=shape)
    assert method_lengths("star", found, (1.0, 1.0)).get("merge", False) is merge
    assert "merge" not in method_lengths("star", found, (1.0, 1.0, 1.0))


# --- end to end -------------------------------------------------------------------------------------------------------


def write_discs(folder, shape, count, radius):
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(2):
        image, labels = discs(shape, count=count, seed=i, radius=radius)
        tifffile.imwrite(folder / f"images/c{i}.tif", image)
        tifffile.imwrite(folder / f"labels/c{i}.tif", labels)
    return scan(folder)


@pytest.mark.parametrize(("radius", "shape", "count"), [(2, (48, 48), 9), (4, (64, 64), 9), (12.5, (96, 96), 4),
                                                        (150, (700, 700), 2)])
def test_perfect_maps_at_the_working_scale_give_the_objects_on_the_images_grid(tmp_path, radius, shape, count):
    dataset = write_discs(tmp_path, shape, count, radius)
    found = measure(dataset, task="instance")
    plan = draft(found, label_table(found, dataset), "discs", Wishes())
    assert (plan.configuration.spacing != (1.0, 1.0)) is (radius in (2, 150))
    image, labels = dataset.load(dataset[0], "instance")
    sample = make_sample(image, labels, plan, "c0")
    assert sample.image.shape[1:] == sample.labels.shape
    assert set(np.unique(sample.labels)) == set(np.unique(labels.array))  # by nearest neighbour: no new id, none lost
    crop = next(crops_of(plan, dataset, found))
    assert np.array_equal(crop.labels > 0, labels.array > 0)
    assert crop.working.shape == sample.labels.shape
    # every method says what it loses between two grids, and the one chosen loses nothing here
    rows = evidence_of(plan, dataset, found)
    assert {r.method for r in rows} == set(METHODS) - {"semantic"}
    assert all(0.0 <= r.ap75 <= 1.0 for r in rows)
    chosen = decided(rows, found.objects)[0]
    assert next(r for r in rows if r.method == chosen).ap75 == 1.0
    out = crop.round_trip(method_of(plan))
    assert out.shape == shape
    assert instance_counts(labels.array, out, thresholds=(0.75,)).ap(0.75) == 1.0


def test_a_model_of_large_objects_answers_on_any_images_own_grid(tmp_path):
    (tmp_path / "data").mkdir()
    dataset = write_discs(tmp_path / "data", (240, 240), 2, 55)
    plan = make_plan(measure(dataset, task="instance"), dataset, steps=1, device="cpu", method="distance")
    assert plan.configuration.spacing[0] > 2.5
    fit(plan, dataset, tmp_path / "run", steps=1, device="cpu")
    model = load(tmp_path / "run", "cpu")
    image = dataset.load(dataset[0], "instance")[0]
    assert model.predict(image).labels.array.shape == (240, 240)
    # an image with a physical size means as many voxels to a model that knows none, and no unit is wrong
    physical = Image(image.array, Grid.regular(image.grid.shape, (0.2, 0.2), "um"), image.channels)
    ready = prepare(physical, plan)
    assert ready.shape == prepare(image, plan).shape
    assert not [note for note in ready.notes if "spacing" in note]


@given(st.floats(1, 500), st.floats(0.1, 4))
def test_a_small_patch_holds_five_objects_within_its_limits(wide, step):
    voxels = small_patch(160 * 160, wide * step, (step, step))
    assert 96**2 <= voxels <= 160**2
    if 20 <= wide <= 31:
        assert abs(voxels**0.5 - 5 * wide) < 0.5


@pytest.mark.parametrize(("method", "least", "most"), [("distance", 96**2, 101**2), ("offset", 150**2, 161**2)])
def test_a_method_that_points_to_centres_keeps_its_larger_patch(method, least, most):
    patch = plan_of(pixels(20.0), method=method).configuration.patch
    assert least <= patch[0] * patch[1] <= most
