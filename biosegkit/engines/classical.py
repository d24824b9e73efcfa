"""Segmenters without training, after scikit-image: what any network has to beat.

A rule (one small frozen dataclass of typed options) turns intensities into a mask, objects or classes;
:class:`Classical` does what all have in common: choosing the channel, smoothing, numbering, the object table, notes.
Lengths are in voxels of the finest axis; coarser axes of an anisotropic image take fewer voxels for the same length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from biosegkit._words import counted
from biosegkit.errors import DataError, OptionError
from biosegkit.image import Image
from biosegkit.predictor import Prediction
from biosegkit.tidy import TidyObjects

from .contours import ActiveContour, ChanVese
from .finish import classes_prediction, objects_prediction
from .found import Found, relative
from .options import split_options
from .regions import RandomWalker, Slic, Watershed
from .thresholds import KMeans, Local, MultiOtsu, Otsu

__all__ = ["RULES", "Classical", "Look", "Rule", "Size", "classical"]


#: Bytes per voxel, measured on nuclei: smoothed intensities, labels and a copy of each; of those that solve equations
#: more. And of every further channel.
_BYTES = {"slic": 56, "watershed": 64, "active-contour": 80, "chan-vese": 180, "random-walker": 480}
_USUAL, _CHANNEL = 32, 16


class Rule(Protocol):
    """What is particular to one segmenter."""

    about: ClassVar[str]
    ndims: ClassVar[tuple[int, ...]]
    multichannel: ClassVar[bool]

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """Mask, objects or classes of intensities ``(C, *space)``, bright where the objects are.

        ``scale`` is the distance of neighbouring voxels per axis, 1 on the finest.
        """
        ...


#: Segmenters by the name that MODEL takes.
RULES: dict[str, type[Rule]] = {
    "otsu": Otsu,
    "multi-otsu": MultiOtsu,
    "local": Local,
    "k-means": KMeans,
    "slic": Slic,
    "random-walker": RandomWalker,
    "chan-vese": ChanVese,
    "active-contour": ActiveContour,
    "watershed": Watershed,
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Look:
    """What of an image is looked at: options that every classical segmenter has."""

    channel: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0, description="channel, counted from 0; all: every channel, for k-means and slic")
    dark: bool = Field(default=False, description="objects are darker than their surroundings")
    sigma: float = Field(default=1.0, ge=0, le=100, description="Gaussian smoothing, standard deviation in voxels")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Size:
    """What an object must be at least: an option of every classical segmenter that finds objects."""

    min_size: int = Field(default=0, ge=0, description="smallest object that is kept, in voxels")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Classical:
    """A classical segmenter: a :class:`biosegkit.predictor.Predictor` without weights.

    Parameters
    ----------
    name : str
        One of :data:`RULES`.
    rule : Rule
    look : Look
    size : Size
    tidy : TidyObjects

    Examples
    --------
    >>> from biosegkit import Grid
    >>> image = Image(np.array([[[0, 9, 9, 0, 8]]], np.uint8), Grid.regular((1, 5)))
    >>> found = Classical("otsu", Otsu(), Look(sigma=0)).predict(image)
    >>> found.labels.array.tolist(), found.objects["area"].tolist()
    ([[0, 1, 1, 0, 2]], [2, 1])
    """

    name: str
    rule: Any
    look: Look = field(default_factory=Look)
    size: Size = field(default_factory=Size)
    tidy: TidyObjects = field(default_factory=TidyObjects)

    @property
    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return {**asdict(self.rule), **asdict(self.look), **asdict(self.size), **asdict(self.tidy)}

    @property
    def record(self) -> dict[str, Any]:
        """What is written beside results."""
        return {"engine": self.name, "options": self.options}

    @property
    def digest(self) -> str:
        """Identity: name and options."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def predict(self, image: Image) -> Prediction:
        """Segment one image.

        Raises
        ------
        DataError
            If the image has other axes than the segmenter can do, or values that are not finite.
        OptionError
            For a channel the image does not have.
        """
        thick = [a for a, n in enumerate(image.grid.shape) if n > 1]
        axes = tuple(thick if len(thick) == 2 else range(image.grid.ndim))  # a single plane is an image of 2 axes
        if len(axes) not in self.rule.ndims:
            raise DataError(f"an image of {len(axes)} axes", file=image.source or None,
                            expected=f"{' or '.join(f'{n}D' for n in self.rule.ndims)}, which is all {self.name} does",
                            remedy="choose another segmenter; biosegkit models lists them")
        notes = [f"{self.name}: a classical segmenter, no network"]
        scale = relative([image.grid.spacing[a] for a in axes])
        values = self._values(image, notes)
        values = self._smoothed(values.reshape(len(values), *(image.grid.shape[a] for a in axes)), scale)
        found: Found = self.rule.find(values, scale).reshaped(image.grid.shape)
        notes += found.notes
        if found.classes is not None:
            if (self.size, self.tidy) != (Size(), TidyObjects()):
                raise OptionError(f"options of objects with {self.name}, which answers with classes here",
                                  expected="objects", remedy="add --option objects_from=1, or leave out "
                                         f"{', '.join(f.name for k in (Size, TidyObjects) for f in fields(k))}")
            return classes_prediction(found.classes, found.count, image, notes)
        return objects_prediction(found, image, self.tidy, self.size.min_size, notes)

    def memory(self, image: Image) -> int:
        """Bytes beyond the image, at their peak; no voxel is looked at."""
        more = _CHANNEL * (image.array.shape[0] - 1) if self.look.channel == "all" else 0
        return (_BYTES.get(self.name, _USUAL) + more) * image.grid.voxels

    def _values(self, image: Image, notes: list[str]) -> npt.NDArray[Any]:
        """The channels looked at."""
        chosen, count, file = self.look.channel, image.array.shape[0], image.source or None
        if chosen == "all" and not self.rule.multichannel:
            raise OptionError(f"channel all with {self.name}", expected="one channel", remedy="give its number")
        if chosen != "all" and chosen >= count:
            raise OptionError(f"channel {chosen} of an image of {counted(count, 'channel')}", file=file,
                              expected=f"0 to {count - 1}", remedy="correct --option channel")
        if chosen != "all" and count > 1:
            notes.append(f"channel {chosen} of {count} was used; --option channel=N chooses another")
        values = np.asarray(image.array[:] if chosen == "all" else image.array[chosen : chosen + 1])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError("values that are not finite", file=file, expected="finite intensities",
                            remedy="replace them where the image was made")
        return values

    def _smoothed(self, values: npt.NDArray[Any], scale: Sequence[float]) -> npt.NDArray[Any]:
        """Smoothed, and bright where the objects are; whole numbers stay whole if they can."""
        from scipy.ndimage import gaussian_filter

        if self.look.sigma:
            widths = (0.0, *(self.look.sigma / s for s in scale))
            values = gaussian_filter(values.astype(np.float32), widths)
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        if self.look.dark:
            values = values.max() - (values.astype(np.int64) if values.dtype.kind == "i" else values)
        return values


def classical(name: str, options: Mapping[str, Any] | None = None) -> Classical:
    """A classical segmenter by name, with options that may be text.

    Raises
    ------
    OptionError
        For an unknown name or option, or a value out of range; it lists what there is.

    Examples
    --------
    >>> classical("multi-otsu", {"classes": "4", "dark": "yes"}).options["classes"]
    4
    """
    if name not in RULES:
        raise OptionError(f"segmenter {name!r}", expected=f"one of {', '.join(RULES)}", remedy="correct the name")
    rule, look, size, tidy = split_options(name, (RULES[name], Look, Size, TidyObjects), options or {})
    return Classical(name, rule, look, size, tidy)
