"""Every loss with classes, regions and objects, from the plan's name to a training step; deep supervision over each."""

import json

import numpy as np
import pytest
import torch
from small_sets import changed, discs, tiny_plan

from biosegkit.loop import forward_loss, make_network, train
from biosegkit.patches import Sample, foreground_voxels, make_batch
from biosegkit.plan.losses import LOSSES, terms_of
from biosegkit.segmenter import method_of

CPU = torch.device("cpu")
SUMS = ("dice+topk_ce", "generalized_dice+boundary", "tversky+cldice")
HEADS = {"classes": ("semantic", (3.0, 1.0, 2.0)), "regions": ("semantic", (1.0, 2.0)),
         "objects": ("instance", (1.0, 3.0))}


def prepared(kind, loss, ndim=2, **training):
    """A plan for that loss, and one case with a corner that nobody annotated."""
    plan = tiny_plan(ndim, task=HEADS[kind][0], values=(0, 1, 2), steps=1, schedule="poly")
    plan = changed(plan, loss=loss, **training)
    if kind == "regions":
        labels = plan.labels.model_copy(update={"regions": (("whole", (1, 2)), ("core", (2,)))})
        plan = plan.model_copy(update={"labels": labels})
    image, ids = discs((24, 25) if ndim == 2 else (12, 18, 17), count=2, radius=4)
    valid = np.ones(ids.shape, bool)
    valid[..., :4] = False
    image = (image / 255).astype(np.float32)
    return plan, Sample("a", image[None], ids, valid, foreground_voxels(ids, HEADS[kind][0], 0))


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("loss", [*LOSSES, *SUMS])
def test_a_training_step_with_exactly_that_loss(loss, kind, tmp_path):
    plan, sample = prepared(kind, loss)
    method = method_of(plan)
    start = make_network(plan, method, CPU).state_dict()
    weights = train(plan, method, [sample], [sample], tmp_path, device=CPU)
    assert any(not torch.equal(start[k], v) for k, v in weights.items())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    own = ("distance",) if kind == "objects" else ()
    logged = next(r["terms"] for r in rows if "terms" in r)
    assert list(logged) == [*terms_of(loss), *own]
    assert next(r["loss"] for r in rows if "terms" in r) == pytest.approx(sum(logged.values()), rel=1e-5)


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("loss", LOSSES)
def test_every_level_of_the_decoder_and_volumes(loss, kind):
    plan, sample = prepared(kind, loss, 3, class_weights=HEADS[kind][1])
    method = method_of(plan)
    network = make_network(plan, method, CPU).train()
    batch = make_batch([sample], plan, method, 0)
    assert len(network(batch.image)) == 2
    four = plan.configuration.architecture.model_copy(update={
        "features": (4, 4, 4, 4), "kernels": ((3,) * 3,) * 4, "strides": ((1,) * 3, *((2,) * 3,) * 3),
        "encoder_blocks": (1,) * 4, "decoder_blocks": (1,) * 3})
    plan = plan.model_copy(update={"configuration": plan.configuration.model_copy(update={"architecture": four})})
    network = make_network(plan, method, CPU).train()
    terms = forward_loss(network, method, batch, plan, CPU)
    sum(terms.values()).backward()
    levels = [p.grad for name, p in network.named_parameters() if "heads" in name and p.grad is not None]
    assert all(torch.isfinite(g).all() for g in levels)
    # the two finer levels of three are supervised
    assert sum(1 for g in levels if g.abs().max() > 0) >= 2
