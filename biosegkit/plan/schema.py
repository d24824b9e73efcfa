"""Plan: the complete, readable, editable description of a model; each decision carries its reason.

A plan rebuilds preprocessing, network, training and decoding. It is plain data: frozen pydantic models with a schema
number; unknown keys are refused.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from biosegkit._atomic import read_json, write_json
from biosegkit._words import complaints
from biosegkit.errors import PlanError
from biosegkit.io.colours import renaming

__all__ = [
    "SCHEMA",
    "Architecture",
    "Augmentation",
    "Channel",
    "Configuration",
    "Decision",
    "LabelTable",
    "MethodEvidence",
    "Plan",
    "Preprocessing",
    "Race",
    "Training",
]

#: Version of the plan's schema; a reader for every older one is kept.
SCHEMA = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(_Frozen):
    """One thing that was decided, and why."""

    name: str
    value: str
    reason: str


class Channel(_Frozen):
    """How one input channel is normalised.

    ``mean``, ``std``, ``low`` and ``high`` are the data set's foreground statistics (percentiles 0.5 and 99.5); only
    the scheme ``ct`` uses them to normalise, all schemes to warn about unlike units (fault V11).
    """

    name: str
    scheme: Literal["zscore", "ct", "rescale_to_0_1", "rgb_to_0_1", "percentile", "none"]
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0


class LabelTable(_Frozen):
    """What the numbers mean.

    Parameters
    ----------
    names, values : tuples
        One name and one user value per class; index 0 is background. Instance tasks have ``background`` and ``object``.
    regions : tuple of (name, class indices), optional
        Overlapping unions of classes that are predicted instead of the classes, painted in this order.
    region_classes : tuple of int
        The class each region is painted with (nnU-Net's ``regions_class_order``); empty: its first class.
    ignore_value : int, optional
        The user's value of voxels without annotation.
    object_names, object_values : tuples
        One name and one user value per class of objects, without background; not written where there are none.
    """

    task: Literal["semantic", "instance"]
    names: tuple[str, ...]
    values: tuple[int, ...]
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    region_classes: tuple[int, ...] = ()
    ignore_value: int | None = None
    mapping: dict[int | str, int] = Field(default_factory=dict)
    object_names: tuple[str, ...] = ()
    object_values: tuple[int, ...] = ()

    @field_validator("mapping", mode="before")
    @classmethod
    def _values_and_colours(cls, value: Any) -> Any:
        """Keys are text in a file."""
        return renaming(value) if isinstance(value, dict) else value

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without classes of objects where there are none, so that other plans keep their text and hashes."""
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v or not k.startswith("object_")}


class Preprocessing(_Frozen):
    """From a file to the array a network sees.

    ``transpose`` orders the canonical axes (slices, the coarsest axis, first); ``resample`` is False where images are
    used at the spacing they have. ``stored_spacing`` is that of the median training image, in the same order, where the
    size of the objects asked for another one; it is not written where it is empty.
    """

    channels: tuple[Channel, ...]
    transpose: tuple[int, ...]
    use_nonzero_mask: bool = False
    crop_to_nonzero: bool = True
    resample: bool = True
    unit: str = "px"
    stored_spacing: tuple[float, ...] = ()

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the entry that says nothing, so that other plans keep their text and hashes."""
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v or k != "stored_spacing"}


class Architecture(_Frozen):
    """A network's topology, one entry per stage from full resolution down.

    ``encoder`` names a pretrained 2D encoder for networks that take one, ``encoder_weights`` the file or the download
    its weights come from and ``encoder_digest`` their SHA-256; what is empty is not written, so that other plans keep
    their text and hash.
    """

    name: str = "unet"
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    norm: Literal["instance", "group", "batch"] = "instance"
    deep_supervision: bool = True
    encoder: str = ""
    encoder_weights: str = ""
    encoder_digest: str = ""

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the entries that say nothing."""
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v or not k.startswith("encoder") or k == "encoder_blocks"}


class Configuration(_Frozen):
    """Working resolution and sampling of one network: patch and lattice step in voxels, spacing in the plan's unit."""

    name: Literal["2d", "3d_fullres", "3d_lowres"]
    ndim: int
    spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    tile_step: tuple[int, ...]
    batch_dice: bool = False
    architecture: Architecture

    @property
    def voxels(self) -> int:
        """Voxels of one step: of all patches of a batch."""
        return self.batch * math.prod(self.patch)


class Augmentation(_Frozen):
    """Probabilities and ranges (reference rules: nnU-Net's defaults scaled by ``strength``)."""

    rotation: float = 0.2
    rotation_degrees: tuple[float, ...] = (30.0, 30.0, 30.0)
    scaling: float = 0.2
    scale_range: tuple[float, float] = (0.7, 1.4)
    elastic: float = 0.0
    dummy_2d: bool = False
    noise: float = 0.1
    blur: float = 0.2
    brightness: float = 0.15
    contrast: float = 0.15
    low_resolution: float = 0.25
    gamma_inverted: float = 0.1
    gamma: float = 0.3
    invert: float = 0.0
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    transpose_axes: tuple[int, ...] = ()


class Training(_Frozen):
    """How the weights are found. ``steps`` is an integer: the clock is not in the plan.

    ``tune_cases`` held-back cases choose the thresholds. ``margin`` is read around each patch so that objects cut by
    its edge are encoded whole. ``loss_options`` replaces defaults of the loss (``{"tversky.alpha": 0.5}``);
    ``class_weights`` has one number per class (background first) or region, or none. ``precision`` is that of the
    network's layers while it trains on a CPU; weights and losses are float32 always, and CUDA trains in float16.
    """

    steps: int
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    momentum: float = 0.99
    schedule: Literal["one_cycle", "poly"] = "one_cycle"
    warmup: float = 0.05
    final_fraction: float = 0.0
    clip_norm: float = 12.0
    average: float = 0.0
    average_window: float = 0.1
    foreground: float = 0.33
    foreground_per_batch: bool = False
    loss: str = "default"
    loss_options: dict[str, float] = Field(default_factory=dict)
    class_weights: tuple[float, ...] = ()
    augmentation: Augmentation = Augmentation()
    margin: tuple[int, ...] = ()
    workers: int = 0
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    precision: Literal["float32", "bfloat16"] = "float32"
    validation_fraction: float = 0.1
    folds: int = 1
    tune_cases: int = 16
    steps_per_epoch: int = 250
    checkpoint_seconds: float = 60.0


class Budget(_Frozen):
    """What was asked for and what was measured, in seconds and bytes."""

    seconds: float | None = None
    memory: int | None = None
    step_seconds: float | None = None
    validation_seconds: float | None = None
    closing_seconds: float = 5.0
    device: str = "cpu"


class MethodEvidence(_Frozen):
    """What speaks for and against a method.

    ``ap50``, ``ap75``, ``ap90``, ``iou`` and ``boundary_iou`` (of the outer two voxels) score
    ``decode(encode(labels))`` on ``objects`` of the user's own labels, in ``seconds``; ``raced`` is the AP on held-back
    cases after a short training, where there was a race. Verdicts: ``chosen``, ``able`` (as good, but another is
    preferred), ``low`` (a ceiling below the best), ``unfit`` (left out by the shape of the objects), ``unmeasured``.
    """

    method: str
    verdict: Literal["chosen", "able", "low", "unfit", "unmeasured"]
    reason: str = ""
    objects: int = 0
    ap50: float | None = None
    ap75: float | None = None
    ap90: float | None = None
    iou: float | None = None
    boundary_iou: float | None = None
    seconds: float | None = None
    raced: float | None = None


class Race(_Frozen):
    """Methods with their options that train before one of them is chosen: ``steps`` within ``seconds`` each."""

    contenders: dict[str, dict[str, Any]]
    steps: int
    seconds: float | None = None


class Plan(_Frozen):
    """The complete description of a model.

    ``method_evidence`` is what the choice of the method was made from, ``race`` one that is still to be run; neither is
    written where there is none.

    Examples
    --------
    >>> Plan.model_json_schema()["title"]
    'Plan'
    """

    schema_version: int = SCHEMA
    name: str
    preset: str
    seed: int = 0
    fingerprint: str = ""
    labels: LabelTable
    preprocessing: Preprocessing
    configuration: Configuration
    alternatives: dict[str, Configuration] = Field(default_factory=dict)
    method: str
    method_options: dict[str, Any] = Field(default_factory=dict)
    training: Training
    budget: Budget = Budget()
    decisions: tuple[Decision, ...] = ()
    method_evidence: tuple[MethodEvidence, ...] = ()
    race: Race | None = None

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not there, so that other plans keep their text and hash."""
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v or k not in ("method_evidence", "race")}

    def write(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises
        ------
        PlanError
            If it was made by a newer schema or a key is missing, unknown or of another type.
        """
        return cls.from_data(read_json(path), str(path))

    @classmethod
    def from_data(cls, data: Any, file: str = "plan") -> Plan:
        """A plan from plain data; ``file`` names it in errors."""
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or not 1 <= version <= SCHEMA:
            raise PlanError(f"a plan of schema {version}", file=file, expected=f"schema 1 to {SCHEMA}",
                            remedy="update biosegkit or make the plan again")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            parts = [cls.model_json_schema(), *cls.model_json_schema()["$defs"].values()]
            known = {name for part in parts for name in part.get("properties", ())}
            raise PlanError(complaints(error.errors(), known), file=file, expected="the entries of a plan",
                            remedy="correct the entry or make the plan again") from error

    @property
    def hash(self) -> str:
        """SHA-256 over everything that changes the model (decision texts and measured seconds do not)."""
        silent = {"decisions": (), "budget": Budget(), "method_evidence": ()}
        text = self.shared().model_copy(update=silent).model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()

    def shared(self) -> Plan:
        """The plan as others may read it: weights it begins from are known by their hash, not by a place (fault S8)."""
        return self.model_copy(update={
            "configuration": _placeless(self.configuration),
            "alternatives": {k: _placeless(c) for k, c in self.alternatives.items()}})

    @property
    def preprocessing_hash(self) -> str:
        """SHA-256 over what changes preprocessed arrays; the key of the store."""
        c = self.configuration
        text = (self.preprocessing.model_dump_json() + self.labels.model_dump_json()
                + repr((c.ndim, c.spacing, c.name.startswith("2d"))))
        return hashlib.sha256(text.encode()).hexdigest()


def _placeless(configuration: Configuration) -> Configuration:
    """Without the path of a file whose hash is known."""
    a = configuration.architecture
    if not (a.encoder_digest and a.encoder_weights.endswith(".safetensors")):
        return configuration
    return configuration.model_copy(update={"architecture": a.model_copy(update={"encoder_weights": ""})})
