"""Losses against numbers worked by hand and against MONAI where the definitions agree."""

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from biosegkit.losses import bce_dice, dice_ce, masked_smooth_l1


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 4, 5, 6, generator=g)
    target = torch.randint(0, 3, (2, 4, 5, 6), generator=g)
    return logits, target, torch.ones(2, 4, 5, 6)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_dice_ce_is_monai_and_torch_when_all_is_annotated(batch, batch_dice, background):
    logits, target, ones = batch
    found = dice_ce(logits, target, ones, batch_dice=batch_dice, include_background=background)
    monai = DiceLoss(
        softmax=True, to_onehot_y=True, include_background=background, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5
    )(logits, target[:, None])
    torch.testing.assert_close(found["dice"], monai)
    torch.testing.assert_close(found["ce"], functional.cross_entropy(logits, target))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_bce_dice_is_monai_and_torch_when_all_is_annotated(batch, batch_dice):
    logits, target, ones = batch
    regions = torch.stack([target > 0, target == 2, target == 1], 1).float()
    found = bce_dice(logits, regions, ones, batch_dice=batch_dice)
    monai = DiceLoss(sigmoid=True, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5)(logits, regions)
    torch.testing.assert_close(found["dice"], monai)
    torch.testing.assert_close(found["bce"], functional.binary_cross_entropy_with_logits(logits, regions))


def test_dice_ce_by_hand():
    # probabilities of class 1: 3/4, 1/4, 1/2; target 1, 0, 1; the last voxel is ignored
    logits = torch.tensor([[[0.0, 0.0, 0.0], [math.log(3), -math.log(3), 0.0]]])
    found = dice_ce(logits, torch.tensor([[1, 0, 1]]), torch.tensor([[1.0, 1.0, 0.0]]), smooth=0.0)
    assert float(found["dice"]) == pytest.approx(1 - 2 * 0.75 / (0.75 + 0.25 + 1))
    assert float(found["ce"]) == pytest.approx(-math.log(0.75))


def test_bce_dice_by_hand():
    logits = torch.tensor([[[math.log(3), -math.log(3), 9.0]]])
    found = bce_dice(logits, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]), smooth=0.0)
    assert float(found["dice"]) == pytest.approx(1 - 2 * 0.75 / 2)
    assert float(found["bce"]) == pytest.approx(-math.log(0.75))


def test_smooth_l1_by_hand():
    prediction = torch.tensor([[[0.0, 0.05, 1.0, 7.0]]])
    found = masked_smooth_l1(prediction, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 2.0, 0.0]]), beta=0.1)
    assert float(found) == pytest.approx((0 + 0.05**2 / 0.2 + 2 * (1 - 0.05)) / 4)
    plain = masked_smooth_l1(prediction, torch.zeros(1, 4), torch.ones(1, 4), beta=0.0)
    assert float(plain) == pytest.approx((0.05 + 1 + 7) / 4)


@pytest.mark.parametrize("kind", ["ce", "bce", "l1"])
def test_ignored_voxels_have_no_value_and_no_gradient(batch, kind):
    logits, target, weight = batch
    weight = weight.clone()
    weight[:, :2] = 0.0

    def value(x, t):
        if kind == "ce":
            return sum(dice_ce(x, t, weight).values())
        if kind == "bce":
            return sum(bce_dice(x[:, :1], (t > 0).float(), weight).values())
        return masked_smooth_l1(x[:, :1], t.float(), weight)

    x = logits.clone().requires_grad_()
    value(x, target).backward()
    assert x.grad[:, :, :2].abs().max() == 0
    assert x.grad[:, :, 2:].abs().max() > 0
    other, changed = logits.clone(), target.clone()
    other[:, :, :2], changed[:, :2] = 1e4, 0
    torch.testing.assert_close(value(other, changed), value(logits, target))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_nothing_annotated_is_zero_with_zero_gradient(batch, batch_dice):
    logits, target, ones = batch
    x = logits.clone().requires_grad_()
    terms = {**dice_ce(x, target, 0 * ones, batch_dice=batch_dice)}
    terms |= bce_dice(x[:, :1], (target > 0).float(), 0 * ones, batch_dice=batch_dice)
    terms["l1"] = masked_smooth_l1(x[:, :1], target.float(), 0 * ones)
    sum(terms.values()).backward()
    assert {k: round(v.item(), 6) for k, v in terms.items()} == {"dice": 0.0, "ce": 0.0, "bce": 0.0, "l1": 0.0}
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() == 0


def test_absent_class_scores_one_when_not_predicted_and_zero_when_predicted():
    # class 2 is absent; class 1 is right
    target = torch.tensor([[0, 1, 0, 1]])
    sure = torch.full((1, 3, 4), -40.0).scatter(1, target[:, None], 40.0)
    assert float(dice_ce(sure, target, torch.ones(1, 4))["dice"]) == pytest.approx(0.0, abs=1e-6)
    wrong = sure.clone()
    wrong[0, :, 0] = torch.tensor([-40.0, -40.0, 40.0])
    assert float(dice_ce(wrong, target, torch.ones(1, 4))["dice"]) == pytest.approx(0.5, abs=1e-4)


def test_arithmetic_is_float32_under_autocast(batch):
    logits, target, ones = batch
    with torch.autocast("cpu", torch.bfloat16):
        half = logits.bfloat16()
        found = dice_ce(half, target, ones) | {"bce": bce_dice(half[:, :1], (target > 0).float(), ones)["bce"]}
        found["l1"] = masked_smooth_l1(half[:, :1], target.float(), ones)
    full = dice_ce(half.float(), target, ones) | {
        "bce": bce_dice(half[:, :1].float(), (target > 0).float(), ones)["bce"]
    }
    full["l1"] = masked_smooth_l1(half[:, :1].float(), target.float(), ones)
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name])


def test_extreme_logits_stay_finite(batch):
    logits, target, ones = batch
    x = (logits * 1e4).requires_grad_()
    terms = [*dice_ce(x, target, ones).values(), *bce_dice(x[:, :1], (target > 0).float(), ones).values()]
    sum(terms).backward()
    assert torch.isfinite(torch.stack(terms)).all()
    assert torch.isfinite(x.grad).all()
