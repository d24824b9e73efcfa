"""Losses against numbers worked by hand on small arrays, one derivation per test."""

import math

import pytest
import torch

from biosegkit.losses import LOSSES, TERMS, Comparison, Loss, masked_smooth_l1, soft_skeleton
from biosegkit.plan.objective import Objective

LOG3 = math.log(3)


def term(name, logits, target, weight=None, *, batch=True, class_weights=(), distance=None, **options):
    """One term alone, whatever else its name brings along."""
    weight = torch.ones(logits.shape[0], *logits.shape[2:]) if weight is None else weight
    c = Comparison.of(logits, target, weight, batch=batch, class_weights=class_weights, distance=distance)
    return float(TERMS[name](c, **options))


# Probabilities 3/4, 1/4, 1/2 and nearly 1 of being inside; truth 1, 0, 1; the last voxel is unknown.
SIGMOID = torch.tensor([[[LOG3, -LOG3, 0.0, 9.0]]])
TWO = torch.cat([torch.zeros(1, 1, 4), SIGMOID], 1)
REGION, CLASSES = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]), torch.tensor([[1, 0, 1, 0]])
KNOWN = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
# inside: tp = 3/4 + 1/2, fp = 1/4, fn = 1/4 + 1/2; outside: tp = 3/4, fp = 1/4 + 1/2, fn = 1/4
TP, FP, FN = 1.25, 0.25, 0.75

BOTH_HEADS = pytest.mark.parametrize(("logits", "target"), [(SIGMOID, REGION), (TWO, CLASSES)],
                                     ids=["sigmoid", "softmax"])


@BOTH_HEADS
def test_dice(logits, target):
    assert term("dice", logits, target, KNOWN, smooth=0.0) == pytest.approx(1 - 2 * TP / (2 * TP + FP + FN))
    assert term("dice", logits, target, KNOWN, smooth=1.0) == pytest.approx(1 - (2 * TP + 1) / (2 * TP + FP + FN + 1))


@BOTH_HEADS
def test_tversky(logits, target):
    found = term("tversky", logits, target, KNOWN, smooth=0.0)
    assert found == pytest.approx(1 - TP / (TP + 0.3 * FP + 0.7 * FN), rel=1e-6)
    assert term("tversky", logits, target, KNOWN, alpha=0.5, beta=0.5, smooth=0.5) == pytest.approx(
        term("dice", logits, target, KNOWN, smooth=1.0), rel=1e-6)


@BOTH_HEADS
def test_focal_tversky(logits, target):
    found = term("focal_tversky", logits, target, KNOWN, smooth=0.0)
    assert found == pytest.approx((1 - TP / (TP + 0.3 * FP + 0.7 * FN)) ** 0.75, rel=1e-6)


def test_generalized_dice():
    # volumes: inside 2, outside 1, so v = 1/4 and 1; pooled overlap 1.25/4 + 0.75, pooled volumes (1.5+2)/4 + 1.5 + 1
    found = term("generalized_dice", TWO, CLASSES, KNOWN, smooth=0.0)
    assert found == pytest.approx(1 - 2 * (1.25 / 4 + 0.75) / (3.5 / 4 + 2.5), rel=1e-6)
    one = term("generalized_dice", SIGMOID, REGION, KNOWN, smooth=0.0)
    assert one == pytest.approx(term("dice", SIGMOID, REGION, KNOWN, smooth=0.0), rel=1e-6)


def test_generalized_dice_does_not_depend_on_the_number_of_voxels():
    """Plain 1 / volume² would drown in the smoothing: 1e5 voxels all wrong would cost 0.7 and half as many 0.4."""
    target = torch.tensor([0, 1]).repeat(1, 50_000)
    wrong = torch.stack([target, 1 - target], 1) * 40.0
    assert term("generalized_dice", wrong, target) == pytest.approx(1.0, abs=1e-6)


@BOTH_HEADS
def test_cross_entropy(logits, target):
    expected = (-math.log(0.75) - math.log(0.75) - math.log(0.5)) / 3
    assert term("ce", logits, target, KNOWN) == pytest.approx(expected, rel=1e-6)
    # with two classes, "not the other" is "this one": one against the rest is the same number
    assert term("bce", logits, target, KNOWN) == pytest.approx(expected, rel=1e-6)


def test_one_against_the_rest_on_a_softmax_of_three():
    # p = 1/2, 1/3, 1/6 with truth 0: -(log 1/2 + log 2/3 + log 5/6) / 3
    logits = torch.tensor([0.5, 1 / 3, 1 / 6]).log().reshape(1, 3, 1)
    expected = -(math.log(1 / 2) + math.log(2 / 3) + math.log(5 / 6)) / 3
    assert term("bce", logits, torch.tensor([[0]])) == pytest.approx(expected, rel=1e-6)


@BOTH_HEADS
def test_focal(logits, target):
    # (1 - p)² of the three: 1/16, 1/16, 1/4
    expected = (2 * math.log(4 / 3) / 16 + math.log(2) / 4) / 3
    assert term("focal", logits, target, KNOWN) == pytest.approx(expected, rel=1e-5)
    assert term("focal", logits, target, KNOWN, gamma=0.0) == pytest.approx(term("ce", logits, target, KNOWN), rel=1e-6)


@BOTH_HEADS
def test_topk(logits, target):
    # a third of the known voxels is one, the worst has p = 1/2; two thirds are the worst two
    assert term("topk_ce", logits, target, KNOWN, share=1 / 3) == pytest.approx(math.log(2), rel=1e-6)
    assert term("topk_ce", logits, target, KNOWN, share=2 / 3) == pytest.approx(
        (math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)
    assert term("topk_ce", logits, target, KNOWN, share=1.0) == pytest.approx(term("ce", logits, target, KNOWN))


def test_lovasz_softmax():
    # class 1 (truth 1, 0, 1): errors 1/4, 1/4, 1/2; sorted 1/2 (true), 1/4, 1/4. J after one: 1 - 1/2; after a true
    # second: 1; after the false third: 1. As the errors of the last two are equal, their order does not matter:
    # 1/2 * 1/2 + 1/4 * 1/2. Class 0 (truth 0, 1, 0): errors 1/4, 1/4, 1/2; sorted 1/2 (false): J = 1 - 1/2; then
    # both others make it 1: 1/2 * 1/2 + 1/4 * 1/2
    assert term("lovasz", TWO, CLASSES, KNOWN) == pytest.approx(0.375, rel=1e-6)


def test_lovasz_hinge():
    # hinge 1 - z (2g - 1): 1 - log 3 < 0 twice, and 1: only the third voxel errs, J = 1 - 1/2
    assert term("lovasz", SIGMOID, REGION, KNOWN) == pytest.approx(0.5, rel=1e-6)


def test_lovasz_of_hard_errors_is_one_minus_iou():
    """On the corners of the cube the extension is the set function itself: IoU 2/5 and 4/7."""
    truth = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0]])
    guess = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 0, 0]])
    logits = torch.stack([1 - guess, guess], 1) * 60.0
    assert term("lovasz", logits, truth) == pytest.approx(((1 - 2 / 5) + (1 - 4 / 7)) / 2, rel=1e-5)


def test_boundary():
    # distances to the border less a half: 1/2, 1/2, 1/2 (inside, outside, inside) and unknown beyond;
    # errors 1/4, 1/4, 1/2: mean of 1/8, 1/8, 1/4
    assert term("boundary", SIGMOID, REGION, KNOWN) == pytest.approx(1 / 6, rel=1e-6)
    assert term("boundary", TWO, CLASSES, KNOWN) == pytest.approx(1 / 6, rel=1e-6)
    # an error far out costs its distance: truth at 0, guess sure at 4, which is 3.5 away
    line = torch.tensor([[[1.0, 0, 0, 0, 0]]])
    guess = torch.tensor([[[60.0, -60, -60, -60, 60]]])
    assert term("boundary", guess, line) == pytest.approx(3.5 / 5)
    assert term("boundary", guess, line, distance=torch.tensor([[[-1.0, 1, 2, 3, 7]]])) == pytest.approx(7 / 5)


def test_skeleton_of_a_bar_is_its_centre_line():
    bar = torch.zeros(1, 1, 7, 13)
    bar[:, :, 2:5, 2:11] = 1
    line = torch.zeros(1, 1, 7, 13)
    line[:, :, 3, 3:10] = 1
    # the first opening takes nothing away, as a 3 x 3 box fits everywhere in the bar; the second takes the whole core
    torch.testing.assert_close(soft_skeleton(bar, 3), line)
    assert float(soft_skeleton(bar, 0).sum()) == 0
    torch.testing.assert_close(soft_skeleton(bar[:, :, None].expand(-1, -1, 3, -1, -1), 3)[:, :, 1], line)


def test_cldice():
    truth, guess = torch.zeros(1, 1, 7, 13), torch.zeros(1, 1, 7, 13)
    truth[:, :, 3, 2:10] = 1  # a line of 8 is its own skeleton
    guess[:, :, 3, 4:12] = 1  # moved by 2: 6 voxels in common
    for s in (0.0, 1.0):
        share = (6 + s) / (8 + s)
        assert term("cldice", 80 * guess - 40, truth, smooth=s) == pytest.approx(1 - share, rel=1e-5)
    # half a line has all its skeleton in the truth, and half of the truth's: 1 - 2 · 1 · 0.5 / 1.5
    half = truth.clone()
    half[:, :, :, 6:] = 0
    assert term("cldice", 80 * half - 40, truth, smooth=0.0) == pytest.approx(1 / 3, rel=1e-5)


def test_smooth_l1():
    prediction = torch.tensor([[[0.0, 0.05, 1.0, 7.0]]])
    found = masked_smooth_l1(prediction, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 2.0, 0.0]]), beta=0.1)
    assert float(found) == pytest.approx((0 + 0.05**2 / 0.2 + 2 * (1 - 0.05)) / 4)
    plain = masked_smooth_l1(prediction, torch.zeros(1, 4), torch.ones(1, 4), beta=0.0)
    assert float(plain) == pytest.approx((0.05 + 1 + 7) / 4)


# --- pooling, weights, sums -------------------------------------------------------------------------------------------


def test_batch_dice_pools_and_sample_dice_averages():
    # sample 1: p = 1/2 in both voxels, both true: tp 1 of 1 + 2; sample 2: p = 1/2 in both, none true: tp 0 of 1
    logits, target = torch.zeros(2, 1, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert term("dice", logits, target, smooth=0.0) == pytest.approx(1 - 2 * 1 / (3 + 1))
    assert term("dice", logits, target, batch=False, smooth=0.0) == pytest.approx(1 - (2 * 1 / 3 + 0) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["dice", "tversky", "focal_tversky", "generalized_dice", "lovasz", "cldice"])
def test_a_sample_mean_is_the_mean_of_single_samples(name):
    g = torch.Generator().manual_seed(1)
    logits, target = torch.randn(3, 3, 6, 7, generator=g), torch.randint(0, 3, (3, 6, 7), generator=g)
    each = [term(name, logits[i:i + 1], target[i:i + 1]) for i in range(3)]
    assert term(name, logits, target, batch=False) == pytest.approx(sum(each) / 3, rel=1e-5)
    assert term(name, logits, target) != pytest.approx(sum(each) / 3, rel=1e-5)


def test_class_weights_of_a_softmax_weigh_voxels_by_their_class():
    # truth 1, 0, 1 with weights 1 and 3: 3, 1, 3
    weights = (1.0, 3.0)
    ce = (3 * -math.log(0.75) - math.log(0.75) + 3 * -math.log(0.5)) / 7
    assert term("ce", TWO, CLASSES, KNOWN, class_weights=weights) == pytest.approx(ce, rel=1e-6)
    torch_ce = torch.nn.functional.cross_entropy(TWO[..., :3], CLASSES[:, :3], weight=torch.tensor(weights))
    assert float(torch_ce) == pytest.approx(ce, rel=1e-6)
    focal = (3 * math.log(4 / 3) / 16 + math.log(4 / 3) / 16 + 3 * math.log(2) / 4) / 7
    assert term("focal", TWO, CLASSES, KNOWN, class_weights=weights) == pytest.approx(focal, rel=1e-5)
    # ranked by weight times loss, the worst is the third voxel, then the first
    topk = (3 * math.log(2) + 3 * math.log(4 / 3)) / 6
    assert term("topk_ce", TWO, CLASSES, KNOWN, class_weights=weights, share=2 / 3) == pytest.approx(topk, rel=1e-6)


def test_class_weights_weigh_the_mean_over_classes():
    logits = torch.randn(1, 3, 20, generator=torch.Generator().manual_seed(2))
    target = torch.arange(20).reshape(1, 20) % 3
    for name in ("dice", "tversky", "focal_tversky", "boundary"):
        first = term(name, logits, target, class_weights=(0.0, 1.0, 0.0))
        second = term(name, logits, target, class_weights=(0.0, 0.0, 1.0))
        assert term(name, logits, target, class_weights=(9.0, 1.0, 3.0)) == pytest.approx((first + 3 * second) / 4)
    only = term("lovasz", logits, target, class_weights=(0.0, 1.0, 0.0))
    both = [term("lovasz", logits, target, class_weights=w) for w in ((1.0, 0, 0), (0, 0, 1.0), (1.0, 1.0, 2.0))]
    assert both[2] == pytest.approx((both[0] + only + 2 * both[1]) / 4)


def test_class_weights_of_regions_and_of_a_single_foreground():
    # two regions with p = 3/4 and 1/2 for a true voxel, weighted 1 and 2
    logits, target = torch.tensor([[[LOG3], [0.0]]]), torch.ones(1, 2, 1)
    expected = (-math.log(0.75) + 2 * -math.log(0.5)) / 3
    assert term("ce", logits, target, class_weights=(1.0, 2.0)) == pytest.approx(expected, rel=1e-6)
    # one foreground map: (outside, inside) = (1, 3)
    one = (3 * -math.log(0.75) - math.log(0.75) + 3 * -math.log(0.5)) / 7
    assert term("bce", SIGMOID, REGION, KNOWN, class_weights=(1.0, 3.0)) == pytest.approx(one, rel=1e-6)


def test_equal_class_weights_are_none():
    g = torch.Generator().manual_seed(3)
    logits, target = torch.randn(2, 3, 6, 7, generator=g), torch.randint(0, 3, (2, 6, 7), generator=g)
    for name in TERMS:
        weighted = term(name, logits, target, class_weights=(2.0,) * 3)
        assert weighted == pytest.approx(term(name, logits, target), rel=1e-5)


def test_a_sum_has_its_terms_and_their_weights():
    ones = torch.ones(1, 4)
    found = LOSSES["boundary"](SIGMOID, REGION, ones)
    assert list(found) == ["ce", "dice", "boundary"]
    assert float(found["boundary"]) == pytest.approx(0.01 * term("boundary", SIGMOID, REGION), rel=1e-6)
    plane = torch.zeros(1, 4, 4)
    assert list(LOSSES["cldice"](plane[:, None], plane, plane + 1)) == ["dice", "cldice"]
    twice = Loss(Objective("dice+topk_ce", {"dice.weight": 2.0, "topk_ce.share": 1.0}))(SIGMOID, REGION, ones)
    assert float(twice["dice"]) == pytest.approx(2 * term("dice", SIGMOID, REGION), rel=1e-6)
    assert float(twice["topk_ce"]) == pytest.approx(term("ce", SIGMOID, REGION), rel=1e-6)


@pytest.mark.parametrize(("target", "weight", "options"), [
    (torch.zeros(1, 3).long(), torch.ones(1, 4), {}), (torch.zeros(1, 2, 4), torch.ones(1, 4), {}),
    (torch.zeros(1, 4), torch.ones(1, 5), {}),
    (torch.zeros(1, 4), torch.ones(1, 4), {"class_weights": (1.0, 2.0, 3.0)}),
])
def test_shapes_that_do_not_belong_together_are_refused(target, weight, options):
    with pytest.raises(ValueError, match=r"logits|class weights"):
        Loss(Objective("dice", **options))(SIGMOID, target, weight)
