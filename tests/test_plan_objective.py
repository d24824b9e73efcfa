"""Loss and class weights from names to a plan, and what is refused."""

import pytest
from test_draft import dataset, fingerprint, plan_of, table

from biosegkit.configure import make_plan
from biosegkit.errors import PlanError
from biosegkit.losses import TERMS as FUNCTIONS
from biosegkit.plan.draft import Wishes, draft
from biosegkit.plan.losses import LOSSES, TERMS, loss_options, terms_of
from biosegkit.plan.objective import Objective, balanced, parse_class_weights
from biosegkit.plan.schema import LabelTable, Plan
from biosegkit.segmenter import method_of


def decision(plan, name):
    return next(d for d in plan.decisions if d.name == name)


def test_facts_and_functions_are_of_the_same_terms():
    assert set(TERMS) == set(FUNCTIONS)
    for name, function in FUNCTIONS.items():
        names = [k for k in function.__annotations__ if k not in ("c", "return")]
        own = dict(zip(names, function.__defaults__ or (), strict=True))
        assert own == {k: v for k, v in TERMS[name].options.items() if k != "weight"}


@pytest.mark.parametrize(("name", "terms"), [
    ("default", ("ce", "dice")), ("ce_dice", ("ce", "dice")), ("bce_dice", ("bce", "dice")), ("tversky", ("tversky",)),
    ("dice+topk_ce", ("dice", "topk_ce")), (" dice + focal ", ("dice", "focal")), ("cldice", ("dice", "cldice")),
    ("boundary", ("ce", "dice", "boundary")), ("generalized_dice+boundary", ("generalized_dice", "boundary")),
    ("boundary+cldice", ("ce", "dice", "boundary", "cldice")), ("ce_dice+cldice", ("ce", "dice", "cldice")),
])
def test_a_name_stands_for_its_terms(name, terms):
    assert terms_of(name) == terms


@pytest.mark.parametrize(("name", "first"), [
    ("tverski", "tversky"), ("dice_ce", "ce_dice"), ("Lovasz", "lovasz"), ("focal_tverskey", "focal_tversky"),
    ("top_k_ce", "topk_ce"), ("generalised_dice", "generalized_dice"), ("cl_dice", "cldice"),
])
def test_a_wrong_name_is_refused_with_the_nearest_first(name, first):
    with pytest.raises(PlanError, match=f"'{name}'; expected one of {first}, ") as caught:
        terms_of(f"ce+{name}")
    assert all(known in str(caught.value) for known in LOSSES)
    with pytest.raises(PlanError, match=first):
        plan_of(fingerprint((64, 64, 64)), loss=name)


@pytest.mark.parametrize("name", ["dice+dice", "ce_dice+dice", "default+ce"])
def test_a_term_that_comes_twice_is_refused(name):
    with pytest.raises(PlanError, match="twice"):
        terms_of(name)


def test_a_plan_says_its_loss_and_why():
    plan = plan_of(fingerprint((64, 64, 64)))
    assert plan.training.loss == "ce_dice"
    assert "nnU-Net" in decision(plan, "loss").reason
    asked = plan_of(fingerprint((64, 64, 64)), loss="tversky")
    assert asked.training.loss == decision(asked, "loss").value == "tversky"
    assert "without --loss it would be ce_dice" in decision(asked, "loss").reason
    assert "Salehi" in decision(asked, "loss").reason
    assert method_of(asked).objective == Objective("tversky")
    assert asked.hash != plan.hash


@pytest.mark.parametrize("preset", ["default", "nnunet"])
@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_any_preset_and_task_takes_a_loss_and_weights(preset, task):
    plan = plan_of(fingerprint((64, 64, 64), task=task), preset=preset, loss="dice+focal", class_weights="1,2")
    assert (plan.training.loss, plan.training.class_weights) == ("dice+focal", (1.0, 2.0))
    assert Plan.from_data(plan.model_dump(mode="json")) == plan
    assert method_of(plan).objective.class_weights == (1.0, 2.0)


def test_loss_options_of_an_edited_plan_reach_the_loss():
    plan = plan_of(fingerprint((64, 64, 64)), loss="tversky")

    def edited(**training):
        return method_of(plan.model_copy(update={"training": plan.training.model_copy(update=training)}))

    found = edited(loss_options={"tversky.alpha": 0.1, "tversky.weight": 2}).objective
    assert found.of_term("tversky") == {"alpha": 0.1, "beta": 0.7, "smooth": 1e-5}
    assert found.weight_of("tversky") == 2
    with pytest.raises(PlanError, match=r"'dice.smooth'; expected one of tversky.alpha"):
        edited(loss_options={"dice.smooth": 1.0})
    with pytest.raises(PlanError, match="at least 0"):
        edited(loss_options={"tversky.beta": -1})
    with pytest.raises(PlanError, match="share"):
        edited(loss="topk_ce", loss_options={"topk_ce.share": 1.5})
    with pytest.raises(PlanError, match="tversky"):
        edited(loss="tverski")
    with pytest.raises(PlanError, match="2: one per class"):
        edited(class_weights=(1.0, 2.0, 3.0))
    with pytest.raises(PlanError, match="objective"):
        method_of(plan.model_copy(update={"method_options": {"objective": {}}}))
    assert loss_options("boundary")["boundary.weight"] == 0.01


def test_class_weights_are_one_per_class_or_region():
    found = fingerprint((64, 64, 64), classes=4)
    assert plan_of(found, class_weights=(1, 2, 3, 4)).training.class_weights == (1.0, 2.0, 3.0, 4.0)
    assert decision(plan_of(found, class_weights="1,2,3,4"), "class weights").value == "background 1, k1 2, k2 3, k3 4"
    with pytest.raises(PlanError, match="2 class weights; expected 4: background, k1, k2, k3"):
        plan_of(found, class_weights="1,2")
    labels = table(found).model_copy(update={"regions": (("whole", (1, 2, 3)), ("core", (3,)))})
    plan = draft(found, labels, "test", Wishes(class_weights="1,2"))
    assert method_of(plan).objective.class_weights == (1.0, 2.0)
    with pytest.raises(PlanError, match="4 class weights; expected 2: whole, core"):
        draft(found, labels, "test", Wishes(class_weights="1,2,3,4"))


def test_balanced_weights_are_inverse_to_how_often_a_class_occurs():
    found = fingerprint((64, 64, 64), classes=3)
    counted = found.model_copy(update={"foreground": 0.1, "classes": tuple(
        c.model_copy(update={"voxels": v}) for c, v in zip(found.classes, (90, 10), strict=True))})
    # 100 voxels are a tenth of all: 900 of background; total / (3 classes · voxels)
    weights = plan_of(counted, class_weights="balanced").training.class_weights
    assert weights == pytest.approx((1000 / 2700, 1000 / 270, 1000 / 30), rel=1e-3)
    assert sum(w * v for w, v in zip(weights, (900, 90, 10), strict=True)) == pytest.approx(1000, rel=1e-3)
    labels: LabelTable = table(found).model_copy(update={"regions": (("whole", (1, 2)), ("core", (2,)))})
    assert draft(counted, labels, "t", Wishes(class_weights="balanced")).training.class_weights == balanced([100, 10])


@pytest.mark.parametrize("given", ["1,x", "", "1,-2", "0,0", "nan,1", (), (0.0, 0.0)])
def test_weights_that_are_none_are_refused(given):
    with pytest.raises(PlanError, match="class weights"):
        parse_class_weights(given)


def test_make_plan_passes_both_on():
    found = fingerprint((16, 16), unit="px", task="instance")
    plan = make_plan(found, dataset(), steps=1, device="cpu", loss="focal", class_weights="1,3")
    assert (plan.training.loss, plan.training.class_weights) == ("focal", (1.0, 3.0))
