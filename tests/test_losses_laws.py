"""Laws every loss keeps: gradients, unknown voxels, empty classes, precision; and MONAI where definitions agree."""

from itertools import pairwise

import monai.losses
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.losses import LOSSES, TERMS, Comparison, Loss, soft_skeleton
from biosegkit.losses.cldice import _largest
from biosegkit.plan.objective import Objective

HEADS = pytest.mark.parametrize("head", ["softmax", "sigmoid"])
EVERY = pytest.mark.parametrize("name", list(LOSSES))
TERM = pytest.mark.parametrize("name", list(TERMS))


def batch(head, shape=(2, 3, 6, 7), seed=3, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=g).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)
    if head == "sigmoid":
        target = torch.stack([target > 0, target == 2, target == 1], 1).to(dtype)
    return logits, target, torch.ones(shape[0], *shape[2:], dtype=dtype)


def value(name, *args, **options):
    return sum(LOSSES[name](*args, **options).values())


def alone(name, *args, **options):
    return TERMS[name](Comparison.of(*args), **options)


def sure(target, classes, height=60.0):
    """Logits that leave no doubt."""
    onehot = torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()
    return height * (onehot - 0.5)


# --- gradients --------------------------------------------------------------------------------------------------------


@EVERY
@HEADS
@pytest.mark.parametrize("pooled", [True, False], ids=["batch", "sample"])
def test_gradient_is_that_of_finite_differences(name, head, pooled):
    logits, target, weight = batch(head, (2, 3, 3, 3), dtype=torch.float64)
    weight[:, :1] = 0
    loss = Loss(Objective(name, class_weights=(1.0, 2.0, 0.5)))
    distance = torch.randn(2, 2 if head == "softmax" else 3, 3, 3, generator=torch.Generator().manual_seed(1)).double()

    def total(x):
        return sum(loss(x, target, weight, batch=pooled, distance=distance).values())

    # one random direction instead of each number where a loss is slow
    assert torch.autograd.gradcheck(total, logits.requires_grad_(), atol=1e-6, fast_mode=name == "cldice")


@EVERY
@HEADS
def test_a_step_against_the_gradient_lowers_the_loss(name, head):
    logits, target, weight = batch(head)
    x = logits.requires_grad_()
    before = value(name, x, target, weight)
    before.backward()
    step = 0.05 / x.grad.abs().max()
    assert value(name, (x - step * x.grad).detach(), target, weight) < before


# --- what is unknown --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(list(LOSSES)), head=st.sampled_from(["softmax", "sigmoid"]),
       pooled=st.booleans())
def test_unknown_voxels_have_no_influence_and_no_gradient(seed, name, head, pooled):
    logits, target, weight = batch(head, seed=seed)
    unknown = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.4
    weight[unknown] = 0
    everywhere = unknown[:, None].expand_as(logits)
    x = logits.clone().requires_grad_()
    before = value(name, x, target, weight, batch=pooled)
    before.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[everywhere].abs().max() == 0
    assert x.grad.abs().max() > 0
    logits[everywhere] = 50 * torch.randn(int(everywhere.sum()), generator=torch.Generator().manual_seed(seed + 2))
    target[unknown if head == "softmax" else everywhere] = 1
    torch.testing.assert_close(value(name, logits, target, weight, batch=pooled), before.detach(), rtol=1e-5, atol=1e-6)


@EVERY
@HEADS
@pytest.mark.parametrize("pooled", [True, False])
def test_nothing_known_is_zero_with_zero_gradient(name, head, pooled):
    logits, target, weight = batch(head)
    x = logits.requires_grad_()
    total = value(name, x, target, 0 * weight, batch=pooled)
    total.backward()
    assert total.item() == pytest.approx(0.0, abs=2e-4)  # the floor of focal Tversky is 3e-5
    assert x.grad.abs().max() == 0


@TERM
def test_a_known_part_counts_as_if_it_were_all(name):
    """Terms that look at one voxel at a time do not see where the unknown part was cut off."""
    logits, target, weight = batch("softmax")
    weight[:, 4:] = 0
    part = alone(name, logits[:, :, :4].contiguous(), target[:, :4].contiguous(), weight[:, :4].contiguous())
    torch.testing.assert_close(alone(name, logits, target, weight), part)


# --- perfect, empty, extreme ------------------------------------------------------------------------------------------


@EVERY
def test_the_truth_costs_nothing(name):
    target = torch.zeros(1, 12, 12, dtype=torch.long)
    target[:, 2:5, 2:10], target[:, 7, 2:10] = 1, 2
    ones = torch.ones(1, 12, 12)
    assert float(value(name, sure(target, 3), target, ones)) == pytest.approx(0.0, abs=1e-3)
    regions = torch.stack([target > 0, target == 2], 1).float()
    assert float(value(name, 60 * (regions - 0.5), regions, ones)) == pytest.approx(0.0, abs=1e-3)


#: What a class costs that is absent from truth and prediction, and from the truth only (None: the more voxels, the
#: more): as the docstrings say.
EMPTY = {"ce": (0, None), "bce": (0, None), "focal": (0, None), "topk_ce": (0, None), "dice": (0, 1),
         "tversky": (0, 1), "focal_tversky": (0, 1), "generalized_dice": (0, 1), "lovasz": (0, None),
         "boundary": (0, 0), "cldice": (0, 1 - 2 * (1 / 9) / (10 / 9))}


@TERM
def test_an_empty_truth(name):
    """One sigmoid, nothing there; predicted are nothing, or 8 voxels in a line."""
    none, guess = torch.zeros(1, 1, 5, 10), torch.zeros(1, 1, 5, 10)
    guess[:, :, 2, 1:9] = 1
    ones = torch.ones(1, 5, 10)
    absent, predicted = EMPTY[name]
    x = (80 * none - 40).requires_grad_()
    clean = alone(name, x, none, ones)
    clean.backward()
    assert torch.isfinite(x.grad).all()
    assert clean.item() == pytest.approx(absent, abs=1e-4)
    x = (80 * guess - 40).requires_grad_()
    wrong = alone(name, x, none, ones)
    wrong.backward()
    assert torch.isfinite(x.grad).all()
    if predicted is None:
        assert wrong.item() > 1
    else:
        assert wrong.item() == pytest.approx(predicted, abs=1e-4)


@TERM
def test_a_class_absent_from_truth_and_prediction_adds_nothing(name):
    target = torch.zeros(1, 6, 8, dtype=torch.long)
    target[:, 2:4, 2:6] = 1
    logits = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    more = torch.cat([logits, torch.full((1, 1, 6, 8), -60.0)], 1)
    two, three = (alone(name, x, target, torch.ones(1, 6, 8)) for x in (logits, more))
    share = {"dice": 2, "tversky": 2, "focal_tversky": 2, "boundary": 2, "cldice": 2, "bce": 1.5}.get(name, 1)
    assert float(three) * share == pytest.approx(float(two), abs=1e-4)


@EVERY
@HEADS
def test_extreme_logits_stay_finite(name, head):
    logits, target, weight = batch(head)
    x = (logits * 1e4).requires_grad_()
    total = value(name, x, target, weight)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(x.grad).all()


@EVERY
@HEADS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(name, head, dtype):
    logits, target, weight = batch(head)
    half = logits.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(name, half, target, weight.to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value(name, half.float(), target, weight))


@EVERY
def test_volumes_too(name):
    logits, target, weight = batch("softmax", (2, 3, 4, 6, 5))
    x = logits.requires_grad_()
    value(name, x, target, weight).backward()
    assert x.grad.abs().max() > 0


# --- MONAI where the definitions are the same -------------------------------------------------------------------------


def same(found, expected):
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (2, 3, 4, 5, 6)])
def test_ratios_are_monais_where_all_is_known(pooled, shape):
    logits, target, ones = batch("softmax", shape)
    whole = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": pooled}
    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    c = Comparison.of(logits, target, ones, batch=pooled)
    y = target[:, None]
    same(TERMS["dice"](c), monai.losses.DiceLoss(**whole, **smooth)(logits, y))
    same(TERMS["tversky"](c), monai.losses.TverskyLoss(**whole, **smooth, alpha=0.3, beta=0.7)(logits, y))
    whole["include_background"] = True
    exact = monai.losses.GeneralizedDiceLoss(**whole, smooth_nr=0, smooth_dr=0)
    same(TERMS["generalized_dice"](c, smooth=0.0), exact(logits, y))
    logits, regions, ones = batch("sigmoid", shape)
    c = Comparison.of(logits, regions, ones, batch=pooled)
    same(TERMS["dice"](c), monai.losses.DiceLoss(sigmoid=True, batch=pooled, **smooth)(logits, regions))


def test_means_over_voxels_are_torchs_and_monais():
    logits, target, ones = batch("softmax")
    same(alone("ce", logits, target, ones), torch.nn.functional.cross_entropy(logits, target))
    softmax = monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
    same(alone("focal", logits, target, ones), 3 * softmax(logits, target[:, None]))
    logits, regions, ones = batch("sigmoid")
    same(alone("ce", logits, regions, ones), torch.nn.functional.binary_cross_entropy_with_logits(logits, regions))
    same(alone("focal", logits, regions, ones), monai.losses.FocalLoss(gamma=2.0)(logits, regions))


@pytest.mark.parametrize("space", [(17, 19), (9, 10, 11)])
def test_cldice_is_monais_for_one_class(space):
    logits = 3 * torch.randn(2, 1, *space, generator=torch.Generator().manual_seed(5))
    truth = (torch.nn.functional.avg_pool2d(logits.flatten(0, -3), 3, 1, 1).reshape(logits.shape) > 0.5).float()
    peer = monai.losses.SoftclDiceLoss(iter_=3, sigmoid=True, smooth=1e-12)
    c = Comparison.of(logits, truth, torch.ones(2, *space), batch=False)
    same(TERMS["cldice"](c, iterations=3), peer(logits, truth))


def test_a_mask_is_monais_for_dice_alone():
    """Its MaskedLoss around others sets logits to 0, which leaves a probability of 1/2 in the sums."""
    logits, regions, known = batch("sigmoid")
    known[:, :3] = 0
    args = {"sigmoid": True, "batch": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    same(alone("dice", logits, regions, known), monai.losses.MaskedDiceLoss(**args)(logits, regions, known[:, None]))
    peer = monai.losses.TverskyLoss(**args, alpha=0.3, beta=0.7)
    cut = peer(logits[:, :, 3:], regions[:, :, 3:])
    same(alone("tversky", logits, regions, known), cut)
    masked = monai.losses.MaskedLoss(peer)(logits, regions, known[:, None])
    assert abs(float(masked) - float(cut)) > 0.01


@pytest.mark.parametrize("space", [(5,), (1, 6), (4, 5, 6)])
def test_the_largest_of_three_is_torchs_pooling(space):
    maps = torch.rand(2, 2, *space, generator=torch.Generator().manual_seed(2))
    for axis in range(2, maps.ndim):
        window = [3 if k == axis else 1 for k in range(2, maps.ndim)]
        pool = getattr(torch.nn.functional, f"max_pool{len(space)}d")
        x, y = maps.clone().requires_grad_(), maps.clone().requires_grad_()
        found, expected = _largest(x, axis), pool(y, window, 1, [w // 2 for w in window])
        assert torch.equal(found, expected)
        (found * maps).sum().backward()
        (expected * maps).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


# --- two definitions by other means -----------------------------------------------------------------------------------


def test_lovasz_is_the_sum_over_thresholds():
    """The extension is the mean of the set function over a threshold of the errors: ∫ J({m > t}) dt."""
    logits, target, ones = batch("softmax", (1, 2, 5, 5))
    error = (target - logits.softmax(1)[:, 1]).abs().numpy().ravel()
    total = 0.0
    for truth in (target.numpy().ravel() == 0, target.numpy().ravel() == 1):
        steps = np.concatenate([[0], np.sort(error)])
        for low, high in pairwise(steps):
            wrong = error > low
            found = truth ^ wrong
            total += (high - low) * (1 - (truth & found).sum() / (truth | found).sum())
    same(alone("lovasz", logits, target, ones), total / 2)


def test_a_soft_skeleton_of_unknown_surroundings_is_that_of_the_cut():
    """Unknown voxels act like the outside of the image."""
    maps = torch.rand(1, 1, 12, 9, generator=torch.Generator().manual_seed(8))
    known = torch.ones(1, 1, 12, 9, dtype=torch.bool)
    known[:, :, 7:] = False
    torch.testing.assert_close(soft_skeleton(maps, 4, known)[:, :, :7], soft_skeleton(maps[:, :, :7].contiguous(), 4))
