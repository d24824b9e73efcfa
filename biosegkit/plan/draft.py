"""From a fingerprint to a plan without a clock: nnU-Net's rules, or the default that starts from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from biosegkit.errors import PlanError
from biosegkit.plan.augmentation import augmentation_for, augmentation_text
from biosegkit.plan.budget import USUAL_BATCH
from biosegkit.plan.defaults import TrainingDefaults, normalisation
from biosegkit.plan.losses import terms_of
from biosegkit.plan.method_choice import checked_method, method_of_task
from biosegkit.plan.networks import USUAL, checked_network, fitted, network_decisions, width_for
from biosegkit.plan.nnunet import PRESETS, NnunetSpec
from biosegkit.plan.nnunet import Configuration as Rules
from biosegkit.plan.nnunet import configure as nnunet_rules
from biosegkit.plan.objective import ClassWeights, parse_class_weights, with_objective
from biosegkit.plan.scale import Scale, margin_of, method_lengths, patch_voxels, scale_of, scaled, small_patch
from biosegkit.plan.schema import (
    Architecture,
    Channel,
    Configuration,
    Decision,
    LabelTable,
    MethodEvidence,
    Plan,
    Preprocessing,
    Training,
)
from biosegkit.plan.spacing import ANISOTROPY, target_grid
from biosegkit.plan.topology import topology

if TYPE_CHECKING:
    from biosegkit.fingerprint import Fingerprint

__all__ = ["PRESET_NAMES", "Wishes", "draft", "refuse_unknown", "smaller", "with_width"]

PRESET_NAMES = ("default", *PRESETS)
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")

#: Voxels of one patch the default preset plans for on a CPU; on a GPU nnU-Net's own patch is used.
CPU_PATCH = {2: 160 * 160, 3: 130_000}
#: Voxels of a whole batch on a CPU. Measured on held-back training nuclei at equal arithmetic: 900 steps of 3 patches
#: reached AP@0.5 0.51, 450 steps of 6 reached 0.46.
CPU_BATCH = {2: USUAL_BATCH, 3: 150_000}
#: The same for objects in 2D. On 86 held-back training images of nuclei 20 pixels wide, after 400 s of one core each:
#: 3 patches of 160² reached AP@0.5 0.785, 2 of them 0.796, 3 of 128² 0.799, 4 of 96² (1.5 times as many steps) 0.814.
OBJECT_BATCH = 37_000
#: Widest stage of the default network, in multiples of the first.
WIDEST = 10


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None leaves the choice to the rules.

    ``seconds`` is the budget, and ``evidence`` what is known of the methods: they come in as data.
    """

    preset: str = "default"
    config: str | None = None
    network: str | None = None
    method: str | None = None
    loss: str | None = None
    seed: int = 0
    folds: int = 1
    memory: int | None = None
    gpu: bool = False
    class_weights: ClassWeights = None
    encoder: str | None = None
    encoder_weights: str | None = None
    encoder_digest: str = ""
    evidence: tuple[MethodEvidence, ...] = ()
    seconds: float | None = None


def refuse_unknown(wishes: Wishes) -> None:
    """Refuse names that are wrong whatever the data are, so that it is told before these are read.

    Raises
    ------
    PlanError
        For a preset, configuration, network, method or loss that does not exist, and weights that are no numbers.

    Examples
    --------
    >>> refuse_unknown(Wishes(network="unett"))
    Traceback (most recent call last):
    biosegkit.errors.PlanError: network 'unett'; expected one of unet, ... did you mean --network unet?
    """
    for option, name, known in (("preset", wishes.preset, PRESET_NAMES), ("config", wishes.config, CONFIGURATIONS)):
        if name is not None and name not in known:
            raise PlanError(f"{option} {name!r}", expected=f"one of {', '.join(known)}", remedy=f"correct --{option}")
    if wishes.network is not None:
        checked_network(wishes.network)
    if wishes.method is not None:
        checked_method(wishes.method)
    if wishes.loss is not None:
        terms_of(wishes.loss)
    if wishes.class_weights is not None:
        parse_class_weights(wishes.class_weights)


def draft(fingerprint: Fingerprint, labels: LabelTable, name: str, wishes: Wishes) -> Plan:
    """Everything but width and number of steps.

    Parameters
    ----------
    fingerprint : Fingerprint
        What was measured.
    labels : LabelTable
        What the numbers mean.
    name : str
        Of the plan.
    wishes : Wishes
        Options.

    Raises
    ------
    PlanError
        For a preset, configuration or method that does not exist or does not fit the data.
    """
    refuse_unknown(wishes)
    rules, scale = _rules(fingerprint, labels, wishes)
    nnunet = wishes.preset != "default"
    chosen, reason = _chosen(rules, wishes.config, slice_wise=not nnunet and not wishes.gpu)
    own = "resenc_unet" if rules[chosen].block == "residual" else USUAL
    network = wishes.network or own
    serves = checked_network(network, len(rules[chosen].patch)).ndims
    found = {key: _of_rules(rule, network, wishes) for key, rule in rules.items() if len(rule.patch) in serves}
    decisions = [Decision(name="task", value=labels.task, reason=fingerprint.task_reason),
                 Decision(name="configuration", value=chosen, reason=reason)]
    decisions += [Decision(name=f"{chosen}: {n}" if n != "transpose" else n, value=_short(v), reason=(
        "by the size of the objects" if scale and n == "spacing" else r)) for n, v, r in rules[chosen].reasons]
    if scale:
        decisions.append(Decision(name="scale", value=scale.value, reason=scale.reason))
    method, reason, evidence = method_of_task(labels, wishes.method, wishes.evidence, fingerprint.objects)
    configuration = found[chosen]
    if not nnunet and not wishes.gpu:
        configuration, more = _small(configuration, rules[chosen], fingerprint, (method, wishes.seconds))
        decisions += more
    decisions += network_decisions(configuration.architecture, own)
    preprocessing, more = _preprocessing(fingerprint, rules[chosen], (labels, scale), nnunet)
    decisions += more
    decisions.append(Decision(name="method", value=method, reason=reason))
    training, more = _training(fingerprint, configuration, method, wishes)
    training, said = with_objective(training, (wishes.loss, wishes.class_weights), labels, fingerprint)
    return Plan(
        name=name, preset=wishes.preset, seed=wishes.seed, fingerprint=fingerprint.hash, labels=labels,
        preprocessing=preprocessing, configuration=configuration,
        alternatives={k: v for k, v in found.items() if k != chosen}, method=method,
        method_options=_method_options(method, labels, configuration, fingerprint), training=training,
        decisions=(*decisions, *said, *more), method_evidence=evidence,
    )


def _rules(fingerprint: Fingerprint, labels: LabelTable, wishes: Wishes) -> tuple[dict[str, Rules], Scale | None]:
    """nnU-Net's configurations for these data; a stack of single slices is planned as 2D.

    The default works at a scale of its own where the objects ask for one.
    """
    shapes = tuple(tuple(int(n) for n in c.cropped) for c in fingerprint.cases)
    spacings = tuple(c.spacing for c in fingerprint.cases)
    flat = fingerprint.ndim == 3 and all(s[0] == 1 for s in shapes)
    spec = NnunetSpec(
        ndim=fingerprint.ndim, spacings=spacings, shapes=shapes, n_cases=len(shapes),
        n_classes=len(labels.regions) + 1 if labels.regions else len(labels.names),
        n_channels=len(fingerprint.channels), preset=wishes.preset if wishes.preset in PRESETS else "nnunet",
        memory_gb=wishes.memory / 2**30 if wishes.memory else None,
    )
    scale = None
    if wishes.preset == "default" and fingerprint.task == "instance" and fingerprint.objects is not None:
        target = target_grid(spacings, shapes)
        order = np.argsort(target.transpose)  # back to the file's axes
        spacing, shape = ([values[i] for i in order] for values in (target.spacing, target.median_shape))
        scale = scale_of(spacing, shape, fingerprint.objects, 2 if flat else fingerprint.ndim)
    found = nnunet_rules(spec if scale is None else scaled(spec, scale))
    return {"2d": found["2d"]} if flat else found, scale


def _chosen(rules: dict[str, Rules], wish: str | None, slice_wise: bool) -> tuple[str, str]:
    """The configuration asked for, else 3D at full resolution; on a CPU 2D where slices are far apart."""
    if wish is not None and wish not in rules:
        raise PlanError(f"configuration {wish!r}", expected=f"one of {', '.join(rules)} for these data",
                        remedy="correct --config")
    if wish is not None:
        return wish, "asked for"
    if "3d_fullres" not in rules:
        return "2d", "images are planes"
    spacing = rules["3d_fullres"].spacing
    thickness = max(spacing) / min(spacing)
    if slice_wise and thickness > ANISOTROPY and rules["2d"].spacing == spacing[1:]:
        return "2d", (f"slices are {thickness:.1f} times as thick as pixels are wide: planes in full hold more context "
                      "than the small 3D patch a CPU can afford; --config 3d_fullres overrides")
    return "3d_fullres", "volumes: 3D at full resolution, nnU-Net's first choice"


def _of_rules(rule: Rules, network: str, wishes: Wishes) -> Configuration:
    """nnU-Net's configuration in the plan's form."""
    architecture = fitted(Architecture(
        name=network, features=rule.features, kernels=rule.kernels, strides=rule.strides,
        encoder_blocks=rule.encoder, decoder_blocks=rule.decoder,
        norm="instance",
    ), wishes.encoder, wishes.encoder_weights, wishes.encoder_digest)
    return Configuration(
        name=rule.name, ndim=len(rule.patch), spacing=rule.spacing,  # type: ignore[arg-type]
        median_shape=tuple(round(n) for n in rule.median_shape), patch=rule.patch, batch=rule.batch,
        tile_step=tuple(max(1, p // 2) for p in rule.patch), batch_dice=rule.batch_dice, architecture=architecture,
    )


def _small(configuration: Configuration, rule: Rules, fingerprint: Fingerprint,
           wanted: tuple[str, float | None]) -> tuple[Configuration, list[Decision]]:
    """Patch and batch for a CPU, by method and seconds: a patch of bounded volume, not padded, and a small batch."""
    (method, seconds), ndim, objects = wanted, configuration.ndim, fingerprint.objects
    most, whole = CPU_PATCH[ndim], CPU_BATCH[ndim]
    if objects is not None and ndim == 2 and method != "offset":  # an object cut by the edge has a centre of its own
        most, whole = small_patch(most, objects.diameter.median, rule.spacing), OBJECT_BATCH
    if objects is not None:
        most = patch_voxels(most, objects.diameter.median, rule.spacing, seconds)
    patch = cpu_patch(rule.spacing, rule.median_shape, most)
    decisions = [Decision(name="patch", value=_short(patch), reason=(
        f"on a CPU at most {most} voxels of the median image's shape, so that a step stays short; "
        "sizes need not be divisible by the strides"))]
    if objects is not None:
        wide = max(objects.diameter.median / min(rule.spacing), 1e-6)
        decisions.append(Decision(name="objects per patch", value=f"{min(patch[-2:]) / wide:.1f} across", reason=(
            f"median object {wide:.1f} voxels wide at the working spacing; three are wanted where time allows")))
    batch = int(min(12, max(2, round(whole / math.prod(patch)))))
    decisions.append(Decision(name="batch", value=str(batch), reason=(
        f"about {whole} voxels per step: in minutes many steps matter more than large batches")))
    slim = _with_patch(configuration, patch, batch, 16).model_copy(update={"batch_dice": True})
    stages = len(slim.architecture.strides)
    decisions.append(Decision(name="stages", value=str(stages), reason=(
        "one convolution instead of two at full resolution, which holds half of all arithmetic")))
    return slim, decisions


def smaller(configuration: Configuration, share: float) -> Configuration | None:
    """A configuration of at most ``share`` of the voxels per step: fewer patches, then smaller ones; None below 4096.

    Examples
    --------
    >>> from biosegkit.plan.schema import Architecture
    >>> net = Architecture(features=(8,), kernels=((3, 3),), strides=((1, 1),), encoder_blocks=(1,), decoder_blocks=())
    >>> two = Configuration(name="2d", ndim=2, spacing=(1.0, 1.0), median_shape=(256, 256), patch=(160, 160), batch=2,
    ...                     tile_step=(80, 80), architecture=net)
    >>> smaller(two, 0.5).batch, smaller(two, 0.3).patch
    (1, (124, 124))
    """
    batch = max(1, int(configuration.batch * share))
    if batch * math.prod(configuration.patch) <= share * configuration.batch * math.prod(configuration.patch):
        return configuration.model_copy(update={"batch": batch})
    voxels = round(share * configuration.batch * math.prod(configuration.patch))
    if voxels < 4096:
        return None
    patch = cpu_patch(configuration.spacing, configuration.patch, voxels)
    return _with_patch(configuration, patch, 1, configuration.architecture.features[0])


def _with_patch(configuration: Configuration, patch: tuple[int, ...], batch: int, width: int) -> Configuration:
    """The configuration with another patch, and the topology that belongs to it: slim at full resolution."""
    net = topology(configuration.spacing, patch)
    stages = len(net.strides)
    architecture = configuration.architecture.model_copy(update={
        "kernels": net.kernels, "strides": net.strides, "encoder_blocks": (1, *(2,) * (stages - 1)),
        "decoder_blocks": (1, *(2,) * (stages - 2)) if stages > 1 else (),
        "features": _features(width_for(configuration.architecture.name, width), stages),
    })
    return configuration.model_copy(update={"patch": patch, "batch": batch, "architecture": architecture,
                                            "tile_step": tuple(max(1, p // 2) for p in patch)})


def cpu_patch(spacing: Sequence[float], shape: Sequence[float], voxels: int) -> tuple[int, ...]:
    """The largest physically isotropic patch of at most ``voxels`` within the image, each edge a multiple of 4.

    Examples
    --------
    >>> cpu_patch((1, 1, 1), (36, 50, 35), 130_000)
    (36, 52, 36)
    >>> cpu_patch((1, 1), (256, 256), 25_600)
    (160, 160)
    """
    low, high = 0.0, max(n * s for n, s in zip(shape, spacing, strict=True))
    for _ in range(50):
        edge = (low + high) / 2
        volume = math.prod(min(n, max(1.0, edge / s)) for n, s in zip(shape, spacing, strict=True))
        low, high = (edge, high) if volume <= voxels else (low, edge)
    edges = [min(n, max(1.0, high / s)) for n, s in zip(shape, spacing, strict=True)]
    return tuple(max(1, 4 * math.ceil(e / 4 - 1e-6)) if e >= 12 else max(1, math.ceil(e - 1e-6)) for e in edges)


def _features(width: int, stages: int) -> tuple[int, ...]:
    return tuple(min(width * 2**s, WIDEST * width, 320) for s in range(stages))


def with_width(configuration: Configuration, width: int) -> Configuration:
    """The same topology with another number of features in the first stage."""
    width = width_for(configuration.architecture.name, width)
    features = _features(width, len(configuration.architecture.strides))
    architecture = configuration.architecture.model_copy(update={"features": features})
    return configuration.model_copy(update={"architecture": architecture})


def _preprocessing(fingerprint: Fingerprint, rule: Rules, meaning: tuple[LabelTable, Scale | None],
                   nnunet: bool) -> tuple[Preprocessing, list[Decision]]:
    """Normalisation, axis order, resampling and cropping, with reasons."""
    labels, scale = meaning
    decisions = []
    channels = []
    microscopy = fingerprint.unit != "mm"
    found = normalisation([c.name for c in fingerprint.channels], fingerprint.relative_size)
    for norm, c in zip(found, fingerprint.channels, strict=True):
        scheme, reason = norm.scheme, norm.reason
        if not nnunet and microscopy and labels.task == "instance" and scheme == "zscore":
            scheme = "percentile"
            reason = ("percentiles 1 and 99.8 of each image to 0 and 1: the share of bright objects varies between "
                      "micrographs and would shift mean and deviation")
        channels.append(Channel(name=c.name, scheme=scheme, mean=c.mean, std=c.std, low=c.low, high=c.high))  # type: ignore[arg-type]
        decisions.append(Decision(name=f"normalisation of {c.name}", value=scheme, reason=reason))
    crop = nnunet or not microscopy
    decisions.append(Decision(name="crop to nonzero", value="yes" if crop else "no", reason=(
        "zeros around the body are padding (nnU-Net)" if crop else "a zero of a camera is a measured value")))
    physical = fingerprint.unit != "px"
    resample = physical or scale is not None
    decisions.append(Decision(name="resampling", value="to the target spacing" if resample else "none", reason=(
        f"spacings are known in {fingerprint.unit} (nnU-Net)" if physical else
        "the scale of the objects" if resample else "no physical pixel size is known")))
    masked = any(n.use_mask for n in found) and crop
    return Preprocessing(channels=tuple(channels), transpose=tuple(rule.transpose or range(fingerprint.ndim)),
                         use_nonzero_mask=masked, crop_to_nonzero=crop, resample=resample,
                         unit=fingerprint.unit, stored_spacing=_stored(fingerprint, rule) if scale else ()), decisions


def _stored(fingerprint: Fingerprint, rule: Rules) -> tuple[float, ...]:
    """The median spacing of the images, in the plan's order of axes."""
    median = np.median(fingerprint.spacings, axis=0)
    return tuple(float(median[axis]) for axis in rule.transpose or range(fingerprint.ndim))


def _method_options(method: str, labels: LabelTable, configuration: Configuration,
                    fingerprint: Fingerprint) -> dict[str, object]:
    """What a method must be told."""
    options = {"batch_dice": configuration.batch_dice,
               **method_lengths(method, fingerprint.objects, configuration.spacing)}
    if method == "semantic":
        options["n_classes"] = len(labels.names)
        if labels.regions:
            options["regions"] = [list(members) for _, members in labels.regions]
        if labels.region_classes:
            options["region_values"] = list(labels.region_classes)
    return options


def _training(fingerprint: Fingerprint, configuration: Configuration, method: str,
              wishes: Wishes) -> tuple[Training, list[Decision]]:
    """Optimiser, sampling and augmentation; nnU-Net's constants or those of short training."""
    mirror = tuple(range(configuration.ndim))
    augmentation, reason = augmentation_for(fingerprint, configuration, wishes.preset != "default", method)
    decisions = [Decision(name="augmentation", value=augmentation_text(augmentation), reason=reason)]
    if wishes.preset != "default":
        d = TrainingDefaults()
        training = Training(
            steps=d.epochs * d.steps_per_epoch, optimizer="sgd", learning_rate=d.learning_rate,
            weight_decay=d.weight_decay, momentum=d.momentum, schedule="poly", clip_norm=d.gradient_clip_norm,
            average=0.0, foreground=d.foreground_share, foreground_per_batch=True,
            augmentation=augmentation.model_copy(update={"mirror_axes": mirror}), memory_format="contiguous",
            validation_fraction=1 / d.fold_count, folds=wishes.folds,
        )
        decisions.append(Decision(name="optimiser", value="SGD 0.01, momentum 0.99, poly", reason="nnU-Net's"))
        return training, decisions
    margin: tuple[int, ...] = ()
    if method != "semantic" and fingerprint.objects is not None:
        across = fingerprint.objects.diameter.p95 / min(configuration.spacing)
        margin, told = margin_of(across, configuration.patch)
        decisions.append(told)
    share = 0.1 if len(fingerprint.cases) >= 20 else 1 / max(2, min(5, len(fingerprint.cases)))
    training = Training(
        steps=1, optimizer="adamw", learning_rate=4e-3, weight_decay=1e-2, schedule="one_cycle", warmup=0.05,
        clip_norm=5.0, average=1.0, average_window=0.08, foreground=0.5 if fingerprint.foreground < 0.2 else 0.33,
        augmentation=augmentation, margin=margin, validation_fraction=share, folds=wishes.folds,
    )
    decisions.append(Decision(name="optimiser", value="AdamW 0.004, one cycle to zero, averaged weights", reason=(
        "a large peak rate annealed to zero inside the budget converges fastest in few steps")))
    decisions.append(Decision(name="validation", value=f"{share:.0%} of the cases, by group", reason=(
        "held back to choose thresholds and to score")))
    return training, decisions


def _short(value: object) -> str:
    if isinstance(value, tuple | list):
        return " × ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
