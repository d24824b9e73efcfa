"""Rules that look at one voxel, or one voxel and its surroundings: Otsu, multi-Otsu, local threshold, k-means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from biosegkit._words import counted
from biosegkit.errors import DataError, OptionError

from .found import Found, voxels

__all__ = ["KMeans", "Local", "MultiOtsu", "Otsu", "otsu_mask"]

_FORBID = ConfigDict(extra="forbid")
#: Voxels that k-means learns its centres from, taken evenly; all are then sorted by these centres.
_SAMPLE = 2**18


def otsu_mask(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], float]:
    """Voxels above Otsu's threshold, and the threshold.

    Source: Otsu 1979, as scikit-image computes it (256 bins, or one per value of whole numbers).

    Examples
    --------
    >>> mask, threshold = otsu_mask(np.array([1, 1, 8, 9], np.uint8))
    >>> mask.tolist(), threshold
    ([False, False, True, True], 1.0)
    """
    from skimage.filters import threshold_otsu

    threshold = threshold_otsu(values)
    return values > threshold, float(threshold)


@dataclass(frozen=True, config=_FORBID)
class Otsu:
    """Objects are the connected components above Otsu's threshold."""

    about: ClassVar[str] = "components above Otsu's threshold"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        mask, threshold = otsu_mask(values[0])
        return Found(mask=mask, notes=(f"threshold {threshold:g}",))


@dataclass(frozen=True, config=_FORBID)
class MultiOtsu:
    """Classes of intensity, darkest first, between Otsu's thresholds (Liao et al. 2001)."""

    classes: int = Field(3, ge=2, le=5, description="number of classes")
    objects_from: int = Field(0, ge=0, le=4, description="0: answer with classes; k: components of class k and above")

    about: ClassVar[str] = "classes of intensity between Otsu's thresholds, or components above one of them"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from skimage.filters import threshold_multiotsu

        _refuse_few(len(np.unique(values[0])), self.classes)
        thresholds = threshold_multiotsu(values[0], classes=self.classes)
        said = f"thresholds {', '.join(f'{t:g}' for t in thresholds)}"
        return _graded(np.digitize(values[0], thresholds, right=True), self.classes, self.objects_from, said)


@dataclass(frozen=True, config=_FORBID)
class Local:
    """Objects are the connected components of voxels brighter than their surroundings."""

    window: float = Field(101, ge=3, description="width of the surroundings, in voxels")
    weights: Literal["gaussian", "mean", "median"] = Field("gaussian", description="how surroundings are averaged")
    above: float = Field(0.1, ge=-1, le=1, description="excess over the surroundings, as a part of the image's range "
                         "(percentiles 1 to 99.8)")

    about: ClassVar[str] = "components brighter than their surroundings (adaptive threshold)"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from skimage.filters import threshold_local

        low, high = np.percentile(values[0], (1, 99.8))
        offset = self.above * float(high - low)
        block = voxels(self.window, scale)
        surroundings = threshold_local(values[0].astype(np.float64), block, method=self.weights, offset=-offset)
        return Found(mask=np.asarray(values[0] > surroundings), notes=(f"excess over the surroundings {offset:g}",))


@dataclass(frozen=True, config=_FORBID)
class KMeans:
    """Classes of alike voxels, darkest first; the centres begin at quantiles, so that the result is always the same."""

    classes: int = Field(3, ge=2, le=16, description="number of classes")
    objects_from: int = Field(0, ge=0, le=15, description="0: answer with classes; k: components of class k and above")

    about: ClassVar[str] = "classes of alike intensity or colour (k-means), or components of the brighter ones"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = True

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from scipy.cluster.vq import ClusterError, kmeans2, vq

        flat = values.reshape(len(values), -1).T
        spread = flat.std(axis=0, dtype=np.float64)
        spread[spread == 0] = 1.0
        sample = flat[:: -(-len(flat) // _SAMPLE)] / spread
        try:
            centres, _ = kmeans2(sample, _first_centres(sample, self.classes), iter=100, minit="matrix",
                                 missing="raise")
        except ClusterError as error:
            raise DataError(f"intensities that do not fall into {self.classes} groups", expected="as many groups",
                            remedy="ask for fewer with --option classes") from error
        centres = centres[np.argsort(centres.sum(axis=1), kind="stable")]
        near, _ = vq(flat / spread, centres)
        said = f"centres {', '.join(str([float(f'{v:.4g}') for v in c * spread]) for c in centres)}"
        return _graded(near.reshape(values.shape[1:]), self.classes, self.objects_from, said)


def _first_centres(sample: npt.NDArray[Any], classes: int) -> npt.NDArray[np.float64]:
    """Voxels at evenly spaced ranks of brightness, each value once."""
    distinct = np.unique(sample)[:, None] if sample.shape[1] == 1 else np.unique(sample, axis=0)
    _refuse_few(len(distinct), classes)
    ranked = distinct[np.argsort(distinct.sum(axis=1), kind="stable")]
    places = ((np.arange(classes) + 0.5) / classes * len(ranked)).astype(int)
    return np.asarray(ranked[places], np.float64)


def _refuse_few(count: int, classes: int) -> None:
    if count < classes:
        raise DataError(f"an image of {counted(count, 'different value')}",
                        expected=f"at least {classes}, one per class",
                        remedy="ask for fewer with --option classes")


def _graded(classes: npt.NDArray[Any], count: int, objects_from: int, said: str) -> Found:
    """The classes themselves, or the mask from one of them on."""
    if not objects_from:
        return Found(classes=classes, count=count, notes=(said,))
    if objects_from >= count:
        raise OptionError(f"objects_from {objects_from} of {count} classes", expected=f"1 to {count - 1}",
                          remedy="correct --option objects_from")
    return Found(mask=np.asarray(classes >= objects_from), notes=(said,))
