"""A plan for new data that begins with a model: what its weights were made for stays, the rest follows the new data.

nnU-Net does the same when it moves the plans of one data set to another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from biosegkit._words import counted
from biosegkit.errors import OptionError
from biosegkit.grid import unit_factor
from biosegkit.plan.augmentation import augmentation_for, augmentation_text
from biosegkit.plan.draft import Wishes, draft
from biosegkit.plan.scale import margin_of
from biosegkit.plan.schema import Decision, LabelTable, Plan, Training

if TYPE_CHECKING:
    from biosegkit.fingerprint import Fingerprint
    from biosegkit.fingerprint_schema import ObjectStatistics

__all__ = ["draft_like"]

#: Decisions of a draft that the model's take the place of, by the first word of their name.
_TAKEN = ("configuration", "2d", "3d_fullres", "3d_lowres", "transpose", "patch", "batch", "stages", "objects",
          "network", "encoder", "normalisation", "crop", "resampling", "scale", "method", "augmentation", "margin")


def draft_like(fingerprint: Fingerprint, labels: LabelTable, name: str, wishes: Wishes, model: Plan) -> Plan:
    """Everything but the number of steps, with the configuration, normalisation and method of a model.

    Labels, loss, augmentation, steps and budget are those of the new data.

    Parameters
    ----------
    fingerprint, labels, name, wishes
        As for :func:`biosegkit.plan.draft.draft`.
    model : Plan
        Of the model whose weights training begins with.

    Raises
    ------
    OptionError
        If something else was asked for, or the data are of another kind than the model's.
    PlanError
        As for :func:`biosegkit.plan.draft.draft`.
    """
    plan = draft(fingerprint, labels, name, _wishes_like(wishes, model, fingerprint))
    decision = Decision(name="begins with", value=model.name, reason=(
        f"--from: network ({model.configuration.architecture.name}), patch, spacing, normalisation and method "
        f"({model.method}) are those of the model, so that its weights fit"))
    kept = tuple(d for d in plan.decisions if d.name.replace(":", " ").split()[0] not in _TAKEN)
    training, fitted = _training_like(plan, model, fingerprint)
    options = plan.method_options if labels.task == "semantic" else model.method_options  # classes may be others
    return plan.model_copy(update={
        "configuration": model.configuration, "preprocessing": model.preprocessing, "alternatives": {},
        "method": model.method, "method_options": options, "training": training,
        "decisions": (*kept, *fitted, decision)})


def _training_like(plan: Plan, model: Plan, fingerprint: Fingerprint) -> tuple[Training, list[Decision]]:
    """The training of the new data with what follows from patch and spacing, which are the model's."""
    c = model.configuration
    augmentation, reason = augmentation_for(fingerprint, c, plan.preset != "default", plan.method)
    decisions = [Decision(name="augmentation", value=augmentation_text(augmentation), reason=reason)]
    margin: tuple[int, ...] = ()
    if plan.training.margin and fingerprint.objects is not None:
        margin, told = margin_of(_across(fingerprint.objects, model, fingerprint.unit), c.patch)
        decisions.append(told)
    return plan.training.model_copy(update={"augmentation": augmentation, "margin": margin}), decisions


def _across(objects: ObjectStatistics, model: Plan, unit: str) -> float:
    """Diameter of large objects in voxels of the model's network."""
    p, finest = model.preprocessing, min(model.configuration.spacing)
    if not p.resample:  # a voxel of the image is one of the network
        return objects.diameter_px.p95
    if p.unit == "px" and unit != "px" and p.stored_spacing:  # it is taken for one of the images of the model
        return objects.diameter_px.p95 * min(p.stored_spacing) / finest
    return objects.diameter.p95 * unit_factor(unit, p.unit) / finest


def _wishes_like(wishes: Wishes, model: Plan, fingerprint: Fingerprint) -> Wishes:
    """The wishes with the model's network, method and number of axes; others are refused."""
    c = model.configuration
    said = {"network": (wishes.network, c.architecture.name), "method": (wishes.method, model.method),
            "config": (wishes.config, c.name), "encoder": (wishes.encoder, c.architecture.encoder)}
    for name, (asked, has) in said.items():
        if asked is not None and asked != has:
            raise OptionError(f"--{name} {asked} with --from a model whose {name} is {has or 'none'}",
                              expected="the model's own, as its weights fit nothing else",
                              remedy=f"leave --{name} out, or --from")
    if wishes.encoder_weights is not None:
        raise OptionError("--encoder-weights together with --from", expected="one of them: a model has all its weights",
                          remedy="leave --encoder-weights out, or --from")
    channels = len(fingerprint.channels), len(model.preprocessing.channels)
    if fingerprint.ndim < c.ndim or channels[0] != channels[1] or fingerprint.task != model.labels.task:
        task = "" if fingerprint.task == model.labels.task else f"; --task {model.labels.task} if the labels are that"
        raise OptionError(
            f"{fingerprint.ndim}D images of {counted(channels[0], 'channel')} with {fingerprint.task} labels",
            expected=f"those of the model of --from: {c.ndim}D, {counted(channels[1], 'channel')}, "
                     f"{model.labels.task} labels",
            remedy=f"begin with another model, or leave --from out{task}")
    p = model.preprocessing  # one that knows no physical size takes a voxel for one of its own images
    if p.resample and (fingerprint.unit == "px") != (p.unit == "px") and not (p.unit == "px" and p.stored_spacing):
        raise OptionError(f"voxels in {fingerprint.unit}", expected=f"in {p.unit}, as the model of --from has them",
                          remedy="give --spacing and --unit, or leave --from out")
    return replace(wishes, network=c.architecture.name, method=model.method, encoder=c.architecture.encoder or None,
                   config="2d" if c.ndim == 2 else "3d_fullres")
