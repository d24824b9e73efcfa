"""Augmentation: drawn once, the same for image and labels, in world space, within the plan's ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.augment import Spatial, draw_spatial, intensity, mirror_and_swap
from biosegkit.plan.augmentation import with_strength
from biosegkit.plan.schema import Augmentation, Training

OFF = {"rotation": 0, "scaling": 0, "noise": 0, "blur": 0, "brightness": 0, "contrast": 0, "low_resolution": 0,
       "gamma_inverted": 0, "gamma": 0, "mirror_axes": ()}
SEEDS = st.integers(0, 2**32 - 1)


def only(**wanted):
    return Augmentation(**{**OFF, **wanted})


def rng(seed=0):
    return np.random.default_rng([seed])


# --- rotation and scaling --------------------------------------------------------------------------------------------


@given(SEEDS, st.tuples(*[st.floats(0.1, 10)] * 3), st.sampled_from([2, 3]))
def test_a_rotation_is_one_of_the_world(seed, spacing, n):
    s = np.array(spacing[:n])
    matrix = draw_spatial(rng(seed), only(rotation=1), tuple(s)).matrix
    in_world = s[:, None] * matrix / s
    assert np.allclose(in_world @ in_world.T, np.eye(n), atol=1e-9)
    assert np.linalg.det(in_world) == pytest.approx(1)


@given(SEEDS)
def test_angles_keep_to_the_plan(seed):
    matrix = draw_spatial(rng(seed), only(rotation=1, rotation_degrees=(15.0, 0.0, 0.0)), (3.0, 1.0, 1.0)).matrix
    angle = np.degrees(np.arctan2(matrix[2, 1], matrix[1, 1]))
    assert abs(angle) <= 15
    assert matrix[0].tolist() == [1, 0, 0]
    assert matrix[:, 0].tolist() == [1, 0, 0]


@given(SEEDS)
def test_scales_keep_to_the_plan(seed):
    matrix = draw_spatial(rng(seed), only(scaling=1, scale_range=(0.7, 1.4)), (1.0, 1.0)).matrix
    assert matrix[0, 0] == matrix[1, 1]
    assert 1 / 1.4 <= matrix[0, 0] <= 1 / 0.7


@given(SEEDS)
def test_slice_wise_augmentation_never_leaves_its_slice(seed):
    plan = only(rotation=1, scaling=1, dummy_2d=True, rotation_degrees=(180.0, 180.0, 180.0))
    matrix = draw_spatial(rng(seed), plan, (5.0, 1.0, 1.0)).matrix
    assert matrix[0].tolist() == [1, 0, 0]
    assert matrix[1:, 0].tolist() == [0, 0]


def test_half_of_the_scales_enlarge_and_probabilities_hold():
    plan = only(rotation=0.2, scaling=0.5)
    drawn = [draw_spatial(rng(s), plan, (1.0, 1.0)) for s in range(2000)]
    shares = [np.mean([np.linalg.det(d.matrix) < 0.999 for d in drawn]), np.mean([d.is_identity for d in drawn]),
              np.mean([abs(d.matrix[0, 1]) > 1e-12 for d in drawn])]
    # 0.5 · 0.5 zoomed in; 0.8 · 0.5 untouched; 0.2 turned: binomial, 2000 draws, five standard deviations
    assert np.allclose(shares, [0.25, 0.4, 0.2], atol=5 * np.sqrt(0.25 / 2000))


@given(SEEDS, st.sampled_from([2, 3]))
def test_reach_holds_every_place_a_patch_reads(seed, n):
    spatial = draw_spatial(rng(seed), only(rotation=1, scaling=1, rotation_degrees=(180.0,) * 3), (2.0, 1.0, 0.5)[:n])
    patch = (5, 9, 14)[:n]
    corners = np.array(np.meshgrid(*([-(p - 1) / 2, (p - 1) / 2] for p in patch))).reshape(n, -1)
    needed = np.abs(spatial.matrix @ corners).max(1)
    assert (needed <= (np.array(spatial.reach(patch)) - 1) / 2).all()


# --- elastic deformation ---------------------------------------------------------------------------------------------


def bent(seed, spacing, patch, **plan):
    return draw_spatial(rng(seed), only(elastic=1, **plan), spacing, patch)


def test_shifts_are_linear_between_points_nine_voxels_apart():
    shift = bent(0, (1.0, 1.0), (37, 28)).shift
    assert shift.shape == (2, 37, 28)
    assert shift.dtype == np.float32
    second = np.abs(np.diff(shift, 2, axis=1)).max((0, 2))
    # points at 0, 9, 18, 27, 36: a kink is seen only there
    assert set(np.flatnonzero(second > 1e-4) + 1) == {9, 18, 27}
    assert set(np.flatnonzero(np.abs(np.diff(shift, 2, axis=2)).max((0, 1)) > 1e-4) + 1) == {9, 18}


def test_shifts_at_the_points_are_normal_with_two_voxels_of_the_finest_axis():
    spacing = (4.0, 1.0, 1.0)
    corners = np.concatenate([bent(s, spacing, (10, 19, 19)).shift[:, ::9, ::9, ::9].reshape(3, -1)
                              for s in range(300)], 1)
    # both ends of z and every ninth voxel are points: 2 voxels of the finest axis, in the world; 5 % is five errors
    assert np.allclose(corners.std(1) * spacing, 2, rtol=0.05)
    assert np.abs(corners.mean(1) * spacing).max() < 0.15


@given(SEEDS)
def test_slice_wise_all_slices_are_bent_alike_and_stay_in_place(seed):
    shift = bent(seed, (5.0, 1.0, 1.0), (6, 20, 20), dummy_2d=True).shift
    assert not shift[0].any()
    assert (shift == shift[:, :1]).all()
    assert shift[1:].std() > 0.2


@given(SEEDS, st.sampled_from([2, 3]))
def test_reach_holds_every_place_a_bent_patch_reads(seed, n):
    patch = (5, 9, 14)[:n]
    spatial = bent(seed, (2.0, 1.0, 0.5)[:n], patch, rotation=1, scaling=1)
    offsets = np.indices(patch).reshape(n, -1) - (np.array(patch)[:, None] - 1) / 2
    needed = np.abs(spatial.matrix @ (offsets + spatial.shift.reshape(n, -1))).max(1)
    assert (needed <= (np.array(spatial.reach(patch)) - 1) / 2).all()


def test_as_many_are_bent_as_the_plan_says_and_none_without_a_patch():
    drawn = [draw_spatial(rng(s), only(elastic=0.3), (1.0, 1.0), (8, 8)).shift is not None for s in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 2000))
    assert draw_spatial(rng(), only(elastic=1), (1.0, 1.0)).is_identity
    assert not bent(0, (1.0, 1.0), (8, 8)).is_identity


def test_draws_do_not_depend_on_what_is_applied():
    """The same generator goes on at the same place whether or not a transform was taken."""
    after = set()
    for plan in (only(), only(rotation=1), only(scaling=1), only(rotation=1, scaling=1)):
        generator = rng(3)
        draw_spatial(generator, plan, (1.0, 1.0))
        after.add(generator.random())
    assert len(after) == 1


def test_an_identity_is_told():
    assert Spatial(np.eye(2)).is_identity
    assert not Spatial(np.diag([1.0, 1.1])).is_identity


# --- mirrors ---------------------------------------------------------------------------------------------------------


@given(SEEDS)
def test_image_and_labels_are_mirrored_and_exchanged_together(seed):
    labels = np.arange(64).reshape(4, 4, 4)
    image = np.stack([labels, 2 * labels]).astype(float)
    plan = only(mirror_axes=(0, 1, 2), transpose_axes=(1, 2))
    a, b = mirror_and_swap(rng(seed), plan, [image, labels[None]])
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], 2 * b[0])
    assert set(b.ravel()) == set(labels.ravel())


def test_every_orientation_of_a_square_comes_up_equally_often():
    labels = np.arange(4).reshape(1, 2, 2)
    plan = only(mirror_axes=(0, 1), transpose_axes=(0, 1))
    found = [tuple(mirror_and_swap(rng(s), plan, [labels])[0].ravel()) for s in range(1600)]
    counts = np.array([found.count(f) for f in set(found)])
    assert len(counts) == 8
    assert (np.abs(counts - 200) < 5 * np.sqrt(200)).all()


def test_axes_that_are_not_named_stay():
    labels = np.arange(8).reshape(1, 2, 2, 2)
    for seed in range(30):
        found = mirror_and_swap(rng(seed), only(mirror_axes=(0,)), [labels])[0]
        assert np.array_equal(found, labels) or np.array_equal(found, labels[:, ::-1])


def test_nothing_to_do_changes_nothing():
    labels = np.arange(8).reshape(1, 2, 4)
    assert mirror_and_swap(rng(), only(), [labels])[0] is labels


# --- intensities -----------------------------------------------------------------------------------------------------


NAMES = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma", "invert")


def picture(seed=0, shape=(2, 12, 14)):
    return rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 12, 14), (2, 6, 8, 7), (1, 1, 9, 9)], ids=["2d", "3d", "one slice"])
def test_each_transform_alone_changes_values_only(name, shape):
    image = picture(shape=shape)
    before = image.copy()
    changed = [intensity(rng(s), only(**{name: 1}), image) for s in range(6)]
    assert all(c.shape == shape and c.dtype == np.float32 and np.isfinite(c).all() for c in changed)
    assert any(not np.allclose(c, image) for c in changed)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
def test_V4_a_constant_patch_stays_finite(name):
    for value in (0.0, 3.0):
        found = intensity(rng(1), only(**{name: 1}), np.full((1, 8, 8), value, np.float32))
        assert np.isfinite(found).all()


def test_nothing_asked_for_changes_nothing():
    image = picture()
    assert np.array_equal(intensity(rng(), only(), image), image)


@given(SEEDS)
@settings(max_examples=30)
def test_brightness_is_a_factor_and_contrast_keeps_mean_and_range(seed):
    image = picture()
    factor = intensity(rng(seed), only(brightness=1), image) / image
    assert np.allclose(factor, factor.flat[0], atol=1e-5)
    assert 0.75 <= factor.flat[0] <= 1.25
    stretched = intensity(rng(seed), only(contrast=1), image)
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    assert ((stretched >= low) & (stretched <= high)).all()
    inner = (stretched > low) & (stretched < high)
    mean = image.mean((1, 2), keepdims=True)
    ratio = ((stretched - mean) / (image - mean))[inner & (np.abs(image - mean) > 0.1)]
    assert np.allclose(ratio, np.median(ratio), atol=1e-3)


@given(SEEDS, st.sampled_from(["gamma", "gamma_inverted"]))
@settings(max_examples=30)
def test_gamma_keeps_mean_deviation_and_order(seed, name):
    image = picture()
    found = intensity(rng(seed), only(**{name: 1}), image)
    for a, b in zip(image, found, strict=True):
        assert b.mean() == pytest.approx(a.mean(), abs=1e-4)
        assert b.std() == pytest.approx(a.std(), rel=1e-3)
        assert (np.diff(b.ravel()[np.argsort(a.ravel())]) >= -1e-5).all()


def test_noise_has_the_deviation_that_was_drawn():
    clean = np.zeros((1, 64, 64), np.float32)
    deviations = [intensity(rng(s), only(noise=1), clean).std() for s in range(200)]
    # uniform between 0 and 0.1
    assert max(deviations) < 0.11
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.01)


def test_low_resolution_spares_the_slices_of_slice_wise_plans():
    image = np.zeros((1, 5, 16, 16), np.float32)
    image[:, 2] = picture(shape=(16, 16))
    found = [intensity(rng(s), only(low_resolution=1, dummy_2d=True), image) for s in range(10)]
    assert all(not f[:, [0, 1, 3, 4]].any() for f in found)
    assert any(not np.array_equal(f, image) for f in found)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_X1_the_same_numbers_give_the_same_image(seed):
    plan = Augmentation(**dict.fromkeys(NAMES, 0.5))
    assert np.array_equal(intensity(rng(seed), plan, picture()), intensity(rng(seed), plan, picture()))


def test_V12_an_axis_of_one_voxel_is_mirrored_into_something_torch_takes():
    import torch

    image = np.arange(9, dtype=np.float32).reshape(1, 1, 9)
    ways = set()
    for seed in range(8):
        turned = torch.from_numpy(mirror_and_swap(rng(seed), only(mirror_axes=(0, 1)), [image])[0])
        ways.add(tuple(turned.flatten().tolist()))
    assert ways == {tuple(range(9)), tuple(range(8, -1, -1))}


@pytest.mark.parametrize(("visits", "shapes", "intensities"), [
    (0, 0.15, 0.15), (15, 0.5, 0.3), (30, 1, 0.4), (99, 1, 0.4)])
def test_bent_images_have_full_changes_of_shape_early_and_milder_intensities(visits, shapes, intensities):
    full = Augmentation(rotation=0.5, scaling=0.5, elastic=0.5)
    made, decision = with_strength(Training(steps=1, augmentation=full), visits)
    found = made.augmentation
    assert {found.rotation, found.scaling, found.elastic} == {0.5 * shapes}
    assert (found.noise, found.gamma) == pytest.approx((0.1 * intensities, 0.3 * intensities), abs=1e-4)
    assert f"shapes {shapes:.2f}" in decision.value
    rigid = with_strength(Training(steps=1), visits)[0].augmentation
    assert rigid.elastic == 0
    strength = min(1, max(0.15, visits / 50))
    assert (rigid.rotation, rigid.noise) == pytest.approx((0.2 * strength, 0.1 * strength), abs=1e-4)
