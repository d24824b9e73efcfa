"""Patches: what they hold, where they lie, and that nothing but (seed, step, index) decides them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_sets import changed, discs, tiny_plan

from biosegkit.errors import DataError
from biosegkit.patches import Sample, annotated_voxels, batches, foreground_voxels, make_batch
from biosegkit.plan.schema import Augmentation
from biosegkit.segmenter import method_of

STILL = Augmentation(rotation=0, scaling=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0,
                     gamma_inverted=0, gamma=0, mirror_axes=())


def sample(shape=(40, 36), seed=0, valid=None, case="a", task="instance"):
    image, labels = discs(shape, seed=seed)
    return Sample(case, image[None].astype(np.float32), labels, valid, foreground_voxels(labels, task, 0))


def hold(batch):
    """Everything of a batch as bytes."""
    parts = {"image": batch.image, **batch.targets, **{f"w {k}": v for k, v in batch.weights.items()}}
    return batch.cases, {k: (v.dtype, v.shape, v.numpy().tobytes()) for k, v in parts.items()}


def take(plan, samples, start, count):
    made = batches(samples, plan, method_of(plan), start)
    found = [hold(next(made)) for _ in range(count)]
    made.close()
    return found


# --- X1: nothing but the numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_X1_any_number_of_workers_makes_the_same_batches(ndim):
    plan = tiny_plan(ndim)
    samples = [sample((24,) * ndim, seed=s, case=str(s)) for s in range(3)]
    straight = take(plan, samples, 0, 5)
    assert take(changed(plan, workers=1), samples, 0, 5) == straight
    assert take(changed(plan, workers=4), samples, 0, 5) == straight
    assert len({str(b) for b in straight}) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_X2_a_batch_is_that_of_its_step_wherever_one_starts(workers):
    plan = changed(tiny_plan(), workers=workers)
    samples = [sample(seed=s) for s in range(2)]
    assert take(plan, samples, 3, 2) == take(plan, samples, 0, 5)[3:]


def test_the_seed_and_the_place_in_the_batch_count():
    plan, samples = tiny_plan(), [sample()]
    first = make_batch(samples, plan, method_of(plan), 0)
    other = make_batch(samples, plan.model_copy(update={"seed": 1}), method_of(plan), 0)
    assert not torch.equal(first.image, other.image)
    assert not torch.equal(first.image[0], first.image[1])


# --- what a patch holds ----------------------------------------------------------------------------------------------


def test_image_and_targets_are_of_the_same_place():
    """The image is the label map itself: whatever is turned, class and value must agree."""
    labels = discs((40, 36), count=5)[1].astype(np.uint8)
    plan = tiny_plan(task="semantic", values=(0, 1, 2, 3, 4, 5), augmentation=STILL.model_copy(update={
        "mirror_axes": (0, 1), "transpose_axes": (0, 1), "rotation": 1.0, "scaling": 1.0}))
    one = Sample("a", (labels > 0)[None].astype(np.float32), labels, None, foreground_voxels(labels, "semantic", 0))
    agreed = []
    for step in range(10):
        batch = make_batch([one], plan, method_of(plan), step)
        sure = (batch.weights["classes"] > 0) & ((batch.image[:, 0] - 0.5).abs() > 0.45)
        agreed.append(((batch.image[:, 0] > 0.5) == (batch.targets["classes"] > 0))[sure].float().mean())
    assert min(agreed) == 1


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_beyond_the_image_the_weight_is_0_and_inside_it_is_not(step):
    plan = tiny_plan(task="semantic", values=(0, 1), augmentation=STILL, foreground=0.0)
    labels = np.ones((24, 20), np.uint8)
    one = Sample("a", np.ones((1, 24, 20), np.float32), labels, None, {})
    batch = make_batch([one], plan, method_of(plan), step)
    assert torch.equal(batch.weights["classes"] > 0, batch.image[:, 0] > 0)
    assert torch.equal(batch.targets["classes"] > 0, batch.image[:, 0] > 0)


@pytest.mark.parametrize(("ndim", "shape"), [(2, (5, 40)), (2, (3, 3)), (3, (1, 20, 20)), (3, (4, 5, 6))])
def test_V12_an_image_smaller_than_the_patch_is_padded_without_weight(ndim, shape):
    plan = tiny_plan(ndim, task="semantic", values=(0, 1), augmentation=STILL)
    one = Sample("a", np.ones((1, *shape), np.float32), np.ones(shape, np.uint8), None,
                 foreground_voxels(np.ones(shape, np.uint8), "semantic", 0))
    for step in range(5):
        batch = make_batch([one], plan, method_of(plan), step)
        inside = batch.weights["classes"] > 0
        assert torch.equal(inside, batch.image[:, 0] > 0)
        assert int(inside[0].sum()) <= np.prod(shape)
        assert inside[0].any()


def test_L9_patches_are_drawn_where_there_is_annotation():
    """A strip of 6 of 400 columns is annotated: no patch misses it, whatever is forced."""
    plan = changed(tiny_plan(patch=(16, 16), batch=4), foreground=0.0, augmentation=STILL)
    image = np.zeros((1, 40, 400), np.float32)
    valid = np.zeros((40, 400), bool)
    valid[:, 300:306] = True
    one = Sample("a", image, np.zeros((40, 400), np.uint16), valid, {}, annotated_voxels(valid, 0, limit=50))
    assert one.annotated.shape == (50, 2)
    assert valid[tuple(one.annotated.T)].all()
    for step in range(20):
        weight = make_batch([one], plan, method_of(plan), step).weights
        assert all((w.flatten(1) > 0).any(1).all() for w in weight.values())


def test_L9_ignored_voxels_have_no_weight():
    valid = np.ones((40, 36), bool)
    valid[:, 18:] = False
    plan = tiny_plan(task="semantic", values=(0, 1), augmentation=STILL)
    one = Sample("a", np.broadcast_to(np.arange(36.0, dtype=np.float32) + 1, (1, 40, 36)), np.ones((40, 36), np.uint8),
                 valid, {})
    for step in range(5):
        batch = make_batch([one], plan, method_of(plan), step)
        known = (batch.image[:, 0] > 0) & (batch.image[:, 0] <= 18)
        assert torch.equal(batch.weights["classes"] > 0, known)


def test_objects_cut_by_the_patch_are_encoded_with_their_margin():
    """With a margin the targets of a patch are those of the whole image, cut; without one they are not."""
    labels = np.zeros((64, 64), np.uint16)
    labels[22:42, 24:44] = 1
    image = np.arange(1, 64 * 64 + 1, dtype=np.float32).reshape(1, 64, 64)
    one = Sample("a", image, labels, None, foreground_voxels(labels, "instance", 0))
    agree = {}
    for margin in ((), (20, 20)):
        plan = tiny_plan(margin=margin, augmentation=STILL, foreground=1.0)
        method, agree[margin] = method_of(plan), []
        truth, _ = method.encode(labels, (1.0, 1.0), np.ones(labels.shape, bool))
        for step in range(4):
            batch = make_batch([one], plan, method, step)
            for patch, target in zip(batch.image[:, 0].numpy(), batch.targets["distance"].numpy(), strict=True):
                y, x = np.argwhere(image[0] == patch[0, 0])[0]
                assert np.array_equal(image[0, y:y + 16, x:x + 16], patch)
                agree[margin].append(np.allclose(target, truth["distance"][..., y:y + 16, x:x + 16]))
    assert all(agree[20, 20])
    assert not any(agree[()])


def test_slices_of_a_stack_are_2d_patches():
    plan = tiny_plan(2, task="semantic", values=(0, 1), augmentation=STILL)
    volume = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 30, 30), np.float32) + 1
    labels = np.ones((5, 30, 30), np.uint8)
    one = Sample("a", volume[None], labels, None, foreground_voxels(labels, "semantic", 0))
    seen = set()
    for step in range(12):
        for patch in make_batch([one], plan, method_of(plan), step).image[:, 0]:
            values = set(patch[patch > 0].tolist())
            assert len(values) == 1
            seen |= values
    assert len(seen) >= 4


# --- where patches lie -----------------------------------------------------------------------------------------------


def test_a_forced_patch_holds_foreground_of_any_class_equally_often():
    labels = np.zeros((60, 60), np.uint8)
    labels[2:40, 2:40], labels[58, 58] = 1, 2
    plan = tiny_plan(task="semantic", values=(0, 1, 2), augmentation=STILL, foreground=1.0)
    one = Sample("a", np.ones((1, 60, 60), np.float32), labels, None, foreground_voxels(labels, "semantic", 0))
    rare = []
    for step in range(60):
        for target in make_batch([one], plan, method_of(plan), step).targets["classes"]:
            assert target.any()
            rare.append(bool((target == 2).any()))
    # 120 draws of one half
    assert abs(np.mean(rare) - 0.5) < 5 * np.sqrt(0.25 / 120)


def test_forced_by_place_in_the_batch_as_nnunet_does():
    labels = np.zeros((200, 200), np.uint8)
    labels[100, 100] = 1
    plan = tiny_plan(task="semantic", values=(0, 1), augmentation=STILL, foreground=0.33, foreground_per_batch=True,
                     batch=3)
    one = Sample("a", np.ones((1, 200, 200), np.float32), labels, None, foreground_voxels(labels, "semantic", 0))
    found = [[bool(t.any()) for t in make_batch([one], plan, method_of(plan), s).targets["classes"]] for s in range(12)]
    assert all(f[2] for f in found)
    assert sum(f[0] + f[1] for f in found) <= 4


def test_every_voxel_of_the_image_is_seen():
    plan = tiny_plan(task="semantic", values=(0, 1), augmentation=STILL, foreground=0.0)
    image = np.arange(1, 30 * 26 + 1, dtype=np.float32).reshape(1, 30, 26)
    one = Sample("a", image, np.zeros((30, 26), np.uint8), None, {})
    seen = set()
    for step in range(60):
        seen |= set(make_batch([one], plan, method_of(plan), step).image.unique().tolist())
    assert set(image.ravel()) <= seen


# --- positions of the foreground -------------------------------------------------------------------------------------


def test_positions_are_of_their_class_and_bounded():
    labels = np.random.default_rng(0).integers(0, 3, (30, 40)).astype(np.uint8)
    found = foreground_voxels(labels, "semantic", 0, limit=50)
    assert set(found) == {1, 2}
    for value, points in found.items():
        assert points.shape == (50, 2)
        assert (labels[tuple(points.T)] == value).all()
        assert len(np.unique(points, axis=0)) == 50


def test_every_object_is_equally_likely_whatever_its_size():
    labels = np.zeros((50, 50), np.uint16)
    labels[:40, :40], labels[45, 45], labels[48, 2:4] = 9, 4, 300
    points = foreground_voxels(labels, "instance", 0, limit=300)[1]
    values, counts = np.unique(labels[tuple(points.T)], return_counts=True)
    assert values.tolist() == [4, 9, 300]
    assert counts.tolist() == [100, 100, 100]


def test_L7_no_foreground_has_no_positions_and_makes_patches():
    assert foreground_voxels(np.zeros((5, 5), np.uint8), "instance", 0) == {}
    plan = tiny_plan()
    empty = Sample("a", np.zeros((1, 20, 20), np.float32), np.zeros((20, 20), np.uint8), None, {})
    assert make_batch([empty], plan, method_of(plan), 0).image.shape == (2, 1, 16, 16)


# --- P4 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("trouble", ["class", "shape", "memory", "runtime"])
def test_P4_an_error_in_a_worker_names_the_case(workers, trouble, monkeypatch):
    plan = changed(tiny_plan(task="semantic", values=(0, 1)), workers=workers)
    labels = np.full((20, 20), 9 if trouble == "class" else 1, np.uint8)
    image = np.zeros((1, 20) if trouble == "shape" else (1, 20, 20), np.float32)
    if trouble in ("memory", "runtime"):
        def fail(*_, **__):
            raise {"memory": MemoryError, "runtime": RuntimeError}[trouble]("trouble")

        monkeypatch.setattr("biosegkit.patches.intensity", fail)
    bad = Sample("patient 7", image, labels, None, {})
    with pytest.raises(DataError, match="case patient 7: no patch"):
        next(batches([bad], plan, method_of(plan), 0))


def test_P4_the_error_comes_at_the_step_it_belongs_to():
    good, bad = sample(case="good"), Sample("bad", np.zeros((1, 4), np.float32), np.zeros((9, 9), np.uint8), None, {})
    straight = batches([good, bad], changed(tiny_plan(batch=1), workers=0), method_of(tiny_plan()), 0)
    threads = batches([good, bad], changed(tiny_plan(batch=1), workers=3), method_of(tiny_plan()), 0)

    def until(made):
        count = 0
        while True:
            try:
                next(made)
            except DataError:
                return count
            count += 1

    assert until(straight) == until(threads) > 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_image_and_labels_are_bent_alike(ndim):
    """The image is a ramp along the last axis, the labels its steps of one voxel."""
    shape = (24,) * ndim
    steps = np.broadcast_to(np.arange(1, 25, dtype=np.uint16), shape).copy()
    ramp = Sample("a", steps[None].astype(np.float32), steps, None, foreground_voxels(steps, "semantic", 0))
    plan = tiny_plan(ndim, augmentation=STILL.model_copy(update={"elastic": 1.0}))
    method = _Values()
    flat = tiny_plan(ndim, augmentation=STILL)
    bends = 0
    for step in range(4):
        batch = make_batch([ramp], plan, method, step)
        known = batch.weights["values"].numpy() > 0
        # beyond the image there are zeros, which the voxels at its border are mixed with
        inside = np.stack([ndimage.binary_erosion(k, np.ones((3,) * ndim), iterations=2) for k in known])
        image, values = batch.image[:, 0].numpy(), batch.targets["values"].numpy()
        assert inside.mean() > 0.1
        assert np.abs(image - values)[inside].max() <= 0.5 + 1e-4
        bends += float(np.abs(make_batch([ramp], flat, method, step).image.numpy() - batch.image.numpy()).max() > 0.5)
    assert bends == 4


class _Values:
    """A method whose target is the labels as they are."""

    def encode(self, labels, spacing, valid=None):
        known = np.ones(labels.shape, bool) if valid is None else valid
        return {"values": labels.astype(np.float32)}, {"values": known.astype(np.float32)}
