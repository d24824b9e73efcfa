"""Fingerprint: what was measured of a data set, as plain data with a versioned schema."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ._atomic import read_json, write_json
from ._words import complaints
from .errors import PlanError

__all__ = ["SCHEMA", "CaseRecord", "ChannelStatistics", "ClassRecord", "Fingerprint", "ObjectClassRecord",
           "ObjectStatistics", "Spread"]

#: Version of the fingerprint's schema. Fingerprints of version 1 know less of the objects: those entries are None.
SCHEMA = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """How values are distributed."""

    mean: float
    minimum: float
    p05: float
    median: float
    p95: float
    p99: float
    maximum: float


class CaseRecord(_Frozen):
    """One case in canonical orientation; all tuples in (z, y, x) or (y, x) order.

    ``cropped`` is the shape of the box around everything that is not 0 in any channel, ``relative_size`` its share of
    all voxels; ``foreground`` the labelled share of the voxels that are not ignored; ``ids`` the number of ids present;
    ``orientation`` that of the file.
    """

    id: str
    group: str
    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    relative_size: float
    spacing: tuple[float, ...]
    orientation: str
    dtype: str
    foreground: float
    ids: int
    bytes: int


class ChannelStatistics(_Frozen):
    """Foreground intensities of one channel, every case with equal weight; ``low`` and ``high``: percentiles 0.5, 99.5.

    ``minimum`` and ``maximum`` are those of all foreground voxels, the others those of a sample.
    """

    name: str
    mean: float = 0.0
    median: float = 0.0
    std: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    low: float = 0.0
    high: float = 0.0


class ClassRecord(_Frozen):
    """A label value: its name, voxels in all cases, and the number of cases that have it."""

    name: str
    value: int
    voxels: int
    cases: int


class ObjectClassRecord(_Frozen):
    """A class of objects: its value in the class images, its objects in all cases, and the cases that have it."""

    value: int
    objects: int
    cases: int


class ObjectStatistics(_Frozen):
    """Objects of an instance task; lengths in the fingerprint's unit unless they end in ``_px`` (voxels).

    ``extent_px`` has one entry per axis (z, y, x); fractions are shares of all objects (``elongated``: of the objects
    whose shape was measured; first principal axis at least twice the second). ``fill`` compares an object with the
    ellipsoid of its moments: near 1 for round and convex, small for branched, bent and hollow shapes.
    ``anisotropy`` is the ratio of z to in-plane spacing that would make objects round, from their boxes.
    ``solidity`` is the share of its convex hull that an object fills, ``star_convexity`` the share of its voxels seen
    from its best centre, ``star_convex`` the share of objects of which at least 95 % are; ``contact`` the share of the
    objects' surface that lies on another object (0: all apart, near 1: tissue without gaps), ``density`` how many
    objects there are in a million voxels.
    """

    count: int
    measured: int
    per_case: Spread
    diameter: Spread
    diameter_px: Spread
    extent_px: tuple[Spread, ...]
    inscribed_radius: Spread
    elongation: Spread
    fill: Spread
    elongated: float
    touching: float
    at_border: float
    split: float
    single_voxel: float
    anisotropy: float | None = None
    solidity: Spread | None = None
    star_convexity: Spread | None = None
    star_convex: float | None = None
    contact: float | None = None
    density: float | None = None


class Fingerprint(_Frozen):
    """What was measured; plain data, stored as ``fingerprint.json``.

    Parameters
    ----------
    unit : str
        Of all lengths; ``px`` where no physical size is known.
    task, task_reason : str
        Classes or objects, and why.
    relative_size : float
        Median share of an image that is left after cropping to what is not 0.
    foreground : float
        Mean labelled share of the voxels.
    classes : tuple of ClassRecord
        Values without background, by rising value; for instance tasks one entry for all objects.
    object_classes : tuple of ObjectClassRecord
        Classes of objects by rising value; not written where there are none.
    """

    schema_version: int = SCHEMA
    source: str = ""
    seed: int = 0
    unit: str
    is_rgb: bool = False
    task: Literal["semantic", "instance"]
    task_reason: str
    cases: tuple[CaseRecord, ...]
    channels: tuple[ChannelStatistics, ...]
    classes: tuple[ClassRecord, ...]
    objects: ObjectStatistics | None = None
    relative_size: float
    foreground: float
    ignore_value: int | None = None
    notes: tuple[str, ...] = ()
    object_classes: tuple[ObjectClassRecord, ...] = ()

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the entry that says nothing, so that other fingerprints keep their text and hash."""
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if v or k != "object_classes"}

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.cases[0].shape)

    @property
    def spacings(self) -> npt.NDArray[np.float64]:
        """Spacing per case, (cases, ndim)."""
        return np.array([c.spacing for c in self.cases], dtype=np.float64)

    @property
    def cropped_shapes(self) -> npt.NDArray[np.int64]:
        """Shape after cropping per case, (cases, ndim)."""
        return np.array([c.cropped for c in self.cases], dtype=np.int64)

    @property
    def object_values(self) -> tuple[int, ...]:
        """The classes of objects that can be learned: none if there is only one, which is no choice."""
        return tuple(c.value for c in self.object_classes) if len(self.object_classes) > 1 else ()

    @property
    def hash(self) -> str:
        """SHA-256 over everything measured, wherever the data lie."""
        return hashlib.sha256(self.model_copy(update={"source": ""}).model_dump_json().encode()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write the fingerprint as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> Fingerprint:
        """Read a fingerprint.

        Raises
        ------
        PlanError
            If it was made by a newer schema, or an entry is missing, unknown or of another type.
        """
        data = read_json(path)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or not 1 <= version <= SCHEMA:
            raise PlanError(f"a fingerprint of schema {version}", file=path, expected=f"schema 1 to {SCHEMA}",
                            remedy="update biosegkit or measure again")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise PlanError(complaints(error.errors(), cls.model_fields), file=path,
                            remedy="measure again") from error
