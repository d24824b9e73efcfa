"""nnU-Net's rules against its published plans, and against sums worked by hand."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.errors import PlanError
from biosegkit.plan.defaults import TrainingDefaults, deep_supervision_weights, normalisation
from biosegkit.plan.memory import feature_counts, plain_elements, residual_blocks, residual_elements
from biosegkit.plan.nnunet import PRESETS, NnunetSpec, configure
from biosegkit.plan.spacing import new_shape, separate_axis, target_grid
from biosegkit.plan.topology import topology

TABLE = Path(__file__).parents[1] / "benchmarks" / "golden_plans.json"
GOLDEN = json.loads(TABLE.read_text(encoding="utf-8"))["datasets"]
GOLDEN_PRESETS = ("nnunet", "resenc_m", "resenc_l")


def golden(dataset, preset="nnunet"):
    row = GOLDEN[dataset]
    spacing, shape = tuple(row["spacing"]), tuple(row["median_shape"])
    return configure(NnunetSpec(3, (spacing,), (shape,), row["cases"], row["classes"], row["channels"], preset))


def spec(spacing, shape, preset="nnunet", cases=50, classes=3, memory=None):
    return NnunetSpec(len(shape), (tuple(spacing),), (tuple(shape),), cases, classes, 1, preset, memory)


@pytest.mark.parametrize("dataset", GOLDEN)
@pytest.mark.parametrize("preset", GOLDEN_PRESETS)
@pytest.mark.parametrize(("name", "key"), [("3d_fullres", "3d"), ("2d", "2d")])
def test_patch_and_batch_are_the_published_ones(dataset, preset, name, key):
    plan = golden(dataset, preset)[name]
    assert [list(plan.patch), plan.batch] == GOLDEN[dataset][key][preset]


@pytest.mark.parametrize("dataset", GOLDEN)
def test_strides_kernels_and_lowres_are_the_published_ones(dataset):
    row, plans = GOLDEN[dataset], golden(dataset)
    full = plans["3d_fullres"]
    assert ["".join(map(str, stage)) for stage in full.strides] == row["strides"]
    flat = row["flat_first_kernels"]
    assert full.kernels == ((1, 3, 3),) * flat + ((3, 3, 3),) * (len(full.strides) - flat)
    assert full.batch_dice is (row["lowres"] is not None)
    assert plans["2d"].batch_dice
    if row["lowres"] is None:
        assert "3d_lowres" not in plans
        return
    low = plans["3d_lowres"]
    assert [round(step, 3) for step in low.spacing] == row["lowres"]["spacing"]
    assert list(low.patch) == row["lowres"]["patch"]
    assert not low.batch_dice


def test_presets_differ_in_blocks_as_published():
    plain, residual = golden("Heart")["3d_fullres"], golden("Heart", "resenc_l")["3d_fullres"]
    assert (plain.block, plain.encoder, plain.decoder) == ("conv", (2,) * 6, (2,) * 5)
    assert (residual.block, residual.encoder, residual.decoder) == ("residual", (1, 3, 4, 6, 6, 6), (1,) * 5)
    assert plain.features == (32, 64, 128, 256, 320, 320)
    assert golden("Liver")["2d"].features == (32, 64, 128, 256, 512, 512, 512, 512)


# --- topology, by hand ---------------------------------------------------------------------------------------------


def test_topology_pools_down_to_a_map_of_four():
    # 32 → 16 → 8 → 4: three poolings, as 4 < 2 × 4 stops
    net = topology((1.0, 1.0), (32, 32))
    assert net.strides == ((1, 1), (2, 2), (2, 2), (2, 2))
    assert (net.divisor, net.patch) == ((8, 8), (32, 32))


def test_topology_single_axis_needs_twelve():
    # (16, 4): 16 ≥ 12 is pooled alone to 8; 8 < 12 stops although 8 ≥ 2 × 4
    assert topology((1.0, 1.0), (16, 4)).strides == ((1, 1), (2, 1))
    assert topology((1.0, 1.0), (11, 4)).strides == ((1, 1),)


def test_topology_spacing_ratio_of_exactly_two_waits():
    # ratio 2 is not < 2: the coarse axis waits one stage, with kernel 1
    net = topology((2.0, 1.0, 1.0), (32, 32, 32))
    assert net.strides[1:3] == ((1, 2, 2), (2, 2, 2))
    assert net.kernels[0] == (1, 3, 3)
    assert net.kernels[1] == (3, 3, 3)


def test_topology_bottleneck_kernel_is_full():
    net = topology((100.0, 1.0, 1.0), (8, 16, 16))
    assert net.kernels[-1] == (3, 3, 3)
    assert all(kernel == (1, 3, 3) for kernel in net.kernels[:-1])


def test_topology_rounds_up():
    # 36 × 50 × 35 with three poolings each: multiples of 8
    assert topology((1, 1, 1), (36, 50, 35)).patch == (40, 56, 40)


@pytest.mark.parametrize("bad", [((1.0,), (8, 8)), ((0.0, 1.0), (8, 8)), ((math.nan, 1.0), (8, 8)), ((), ())])
def test_topology_refuses_nonsense(bad):
    with pytest.raises(PlanError, match="positive finite"):
        topology(*bad)


# --- memory, by hand -----------------------------------------------------------------------------------------------


def test_memory_of_the_reference_patch():
    strides = topology((1, 1, 1), (128, 128, 128)).strides
    features = feature_counts(len(strides), 3)
    v = [128**3 // 8**s for s in range(6)]
    maps = [f * n for f, n in zip((32, 64, 128, 256, 320, 320), v, strict=True)]
    by_hand = sum(2 * m for m in maps) + sum(3 * m for m in maps[:-1]) + 3 * v[0]
    assert plain_elements((128,) * 3, strides, features, 3) == by_hand
    assert by_hand / 1e6 == pytest.approx(452.8, abs=0.05)


def test_memory_of_a_residual_encoder_by_hand():
    # 8 voxels of 2 channels, then 4 of 4: stage maps 16 and 16 elements.
    # stem 16; stage 0: one block 2·16; stage 1: first block 2·16 + shortcut 16, two further 2·16 each;
    # decoder: (1 + 1)·16; head 2·8
    assert residual_elements((8,), ((1,), (2,)), (2, 4), 2) == 16 + 32 + 48 + 64 + 32 + 16
    assert residual_blocks(8) == (1, 3, 4, 6, 6, 6, 6, 6)


def test_feature_caps():
    assert feature_counts(7, 3)[-1] == 320
    assert feature_counts(7, 2) == (32, 64, 128, 256, 512, 512, 512)


def test_reference_scales_with_memory():
    # Heart in 2D with data for any batch: batch = round(reference · GB / 8 / elements · 12)
    small, large = (configure(spec((1.0, 1.0), (256, 256), cases=10**6, memory=gb))["2d"] for gb in (8.0, 16.0))
    assert small.patch == large.patch == (256, 256)
    assert small.batch == round(85e6 / small.elements * 12)
    assert large.batch == round(2 * 85e6 / large.elements * 12)


def test_more_memory_never_gives_a_smaller_patch():
    volumes = []
    for memory in (2.0, 4.0, 8.0, 16.0, 32.0):
        full = configure(spec((1, 1, 1), (300, 300, 300), memory=memory))["3d_fullres"]
        volumes.append(math.prod(full.patch))
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[-1]


# --- spacing ---------------------------------------------------------------------------------------------------------


def test_target_spacing_is_the_median():
    grid = target_grid([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [(100, 100, 100)] * 3)
    assert grid.spacing == (2.0, 1.0, 1.0)
    # 100·1/2, 100·2/2, 100·3/2
    assert grid.median_shape == (100.0, 100.0, 100.0)


def test_target_spacing_of_anisotropic_data_takes_the_tenth_percentile():
    # medians (10, 1, 1) and 20 × 3 < 100: axis 0 takes percentile 10 of 4, 10, 16, i.e. 4 + 0.2 · 6
    grid = target_grid([(4, 1, 1), (10, 1, 1), (16, 1, 1)], [(20, 100, 100)] * 3)
    assert grid.spacing == pytest.approx((5.2, 1.0, 1.0))


def test_target_spacing_never_gets_finer_than_the_other_axes():
    grid = target_grid([(0.5, 1, 1), (10, 1, 1), (10, 1, 1), (0.5, 1, 1), (10, 1, 1)], [(20, 100, 100)] * 5)
    assert grid.spacing == pytest.approx((1.00001, 1.0, 1.0), abs=1e-9)


def test_coarse_but_long_axis_keeps_the_median():
    # 40 × 3 is not < 100
    assert target_grid([(4, 1, 1), (10, 1, 1), (16, 1, 1)], [(40, 100, 100)] * 3).spacing[0] == 10


def test_transposition_puts_the_coarsest_axis_first():
    grid = target_grid([(1, 0.5, 4)], [(60, 120, 20)])
    assert (grid.transpose, grid.spacing, grid.median_shape) == ((2, 0, 1), (4, 1, 0.5), (20, 60, 120))
    plans = configure(NnunetSpec(3, ((1.0, 0.5, 4.0),), ((60, 120, 20),), 10, 2))
    assert plans["2d"].spacing == (1.0, 0.5)
    assert plans["2d"].transpose == plans["3d_fullres"].transpose == (2, 0, 1)


def test_two_dimensional_axes_keep_their_order():
    assert target_grid([(1, 2)], [(60, 120)]).transpose == (0, 1)


def test_new_shape_rounds_and_never_vanishes():
    assert new_shape((10, 3), (1.0, 1.0), (3.0, 100.0)) == (3, 1)


@pytest.mark.parametrize(
    ("old", "new", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),  # 3 is not > 3
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (1, 5, 1), 1),
        ((5, 5, 1), (1, 1, 1), None),  # tie
        ((5, 1), (1, 1), None),
    ],
)
def test_separate_axis(old, new, axis):
    assert separate_axis(old, new) == axis


# --- configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 512), (1, 512, 512)])
def test_planar_data_gives_only_2d(shape):
    spacing = (1.0,) * len(shape)
    plans = configure(spec(spacing, shape))
    assert list(plans) == ["2d"]
    assert plans["2d"].patch == (512, 512)


def test_planar_files_and_single_slice_stacks_agree():
    flat, stack = configure(spec((0.5, 0.5), (300, 400)))["2d"], configure(spec((5, 0.5, 0.5), (1, 300, 400)))["2d"]
    assert (flat.patch, flat.batch, flat.strides) == (stack.patch, stack.batch, stack.strides)


def test_lowres_is_dropped_when_it_saves_less_than_half():
    found = {}
    for edge in range(160, 300, 20):
        plans = configure(spec((1, 1, 1), (edge,) * 3))
        full = plans["3d_fullres"]
        low = plans.get("3d_lowres")
        share = math.prod(full.patch) / edge**3
        found[edge] = (share < 0.25, low is not None)
        if low is not None:
            steps = math.log(low.spacing[0]) / math.log(1.03)
            assert steps == pytest.approx(round(steps))
            assert low.spacing[0] ** 3 >= 2
            assert math.prod(low.patch) >= 0.25 * edge**3 / low.spacing[0] ** 3
    assert (True, False) in found.values()  # needed, but dropped
    assert (True, True) in found.values()
    assert (False, False) in found.values()
    assert (False, True) not in found.values()


def test_lowres_first_coarsens_the_fine_axes():
    low = configure(spec((5, 1, 1), (400, 800, 800)))["3d_lowres"]
    assert low.spacing[0] / low.spacing[1] == pytest.approx(2, rel=0.031)
    assert low.spacing[1] == low.spacing[2] > 1


def test_every_decision_has_a_reason():
    for plan in golden("Liver").values():
        names = {name for name, _, _ in plan.reasons}
        assert {"spacing", "transpose", "patch", "batch", "network", "batch_dice"} <= names
        assert all("nnU-Net)" in why for _, _, why in plan.reasons)
        assert {name: value for name, value, _ in plan.reasons}["batch"] == plan.batch
    assert ("3d_cascade", "possible") in {reason[:2] for reason in golden("Liver")["3d_fullres"].reasons}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spacing", [(100.0, 1.0, 1.0), (1.0, 1.0, 100.0), (1e-3, 1e-3, 1e-1), (1e4, 1.0, 1.0)])
def test_G7_anisotropy_of_a_hundred_stays_finite(spacing, preset):
    for plan in configure(spec(spacing, (12, 700, 900), preset)).values():
        assert all(1 <= edge <= 1024 for edge in plan.patch)
        assert plan.batch >= 2


def test_memory_that_holds_nothing_gives_the_smallest_patch_and_says_so():
    plan = configure(spec((1, 1, 1), (200, 200, 200), memory=1e-6))["3d_fullres"]
    assert max(plan.patch) < 16
    assert any("exceed" in why for _, _, why in plan.reasons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "resenc_s"}, "resenc_m"),
        ({"ndim": 2}, "2 or 3 axes"),
        ({"n_cases": 0}, "at least one"),
        ({"memory_gb": -1.0}, "positive memory"),
        ({"shapes": ()}, "one of each per case"),
        ({"spacings": ((1.0, math.inf, 1.0),)}, "positive and finite"),
    ],
)
def test_unusable_specs_are_refused(changes, message):
    fields = {"ndim": 3, "spacings": ((1.0, 1.0, 1.0),), "shapes": ((64, 64, 64),), "n_cases": 5, "n_classes": 2}
    with pytest.raises(PlanError, match=message):
        configure(NnunetSpec(**(fields | changes)))


edges = st.integers(min_value=1, max_value=1500)
steps = st.floats(min_value=0.01, max_value=100, allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(
    grid=st.lists(st.tuples(edges, steps), min_size=2, max_size=3),
    preset=st.sampled_from(tuple(PRESETS)),
    cases=st.integers(min_value=1, max_value=500),
    memory=st.floats(min_value=0.05, max_value=80),
)
def test_any_dataset_gives_a_consistent_plan(grid, preset, cases, memory):
    shape, spacing = zip(*grid, strict=True)
    plans = configure(spec(spacing, shape, preset, cases, 4, memory))
    assert "2d" in plans
    for plan in plans.values():
        divisor = [math.prod(stage[axis] for stage in plan.strides) for axis in range(len(plan.patch))]
        assert all(edge % d == 0 for edge, d in zip(plan.patch, divisor, strict=True))
        assert plan.batch >= 2
        assert len(plan.kernels) == len(plan.strides) == len(plan.features) == len(plan.encoder)
        assert len(plan.decoder) == len(plan.encoder) - 1
        assert all(k in (1, 3) for kernel in plan.kernels for k in kernel)
        assert all(edge < n + d for edge, n, d in zip(plan.patch, plan.median_shape, divisor, strict=True))
        assert all(d == 1 or edge // d >= 4 for edge, d in zip(plan.patch, divisor, strict=True))


# --- constants -----------------------------------------------------------------------------------------------------


def test_normalisation_by_channel_name():
    chosen = normalisation(("ct", "noNorm", "RGB_to_0_1", "rescale_to_0_1", "DAPI"), relative_size=0.5)
    assert [n.scheme for n in chosen] == ["ct", "none", "rgb_to_0_1", "rescale_to_0_1", "zscore"]
    assert [n.use_mask for n in chosen] == [False, False, False, False, True]
    assert not normalisation(("DAPI",), relative_size=0.75)[0].use_mask


def test_deep_supervision_weights_sum_to_one_without_the_coarsest():
    weights = deep_supervision_weights(5)
    assert sum(weights) == pytest.approx(1)
    assert weights[-1] == 0
    assert weights[0] == pytest.approx(8 / 15)
    assert deep_supervision_weights(1) == (1.0,)


def test_training_constants():
    defaults = TrainingDefaults()
    constants = (defaults.momentum, defaults.weight_decay, defaults.gradient_clip_norm, defaults.foreground_share)
    assert constants == (0.99, 3e-5, 12.0, 0.33)
