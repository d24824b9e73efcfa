"""Rules that move a contour until two regions are each as even as can be: Chan–Vese, and its morphological form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from biosegkit._words import counted
from biosegkit.errors import DataError

from .found import Found, unit_range
from .thresholds import otsu_mask

__all__ = ["ActiveContour", "ChanVese"]

_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_FORBID)
class ChanVese:
    """Two regions of even intensity with a short border between them (Chan and Vese 2001), from Otsu's mask on."""

    mu: float = Field(0.05, ge=0, description="weight of the length of the border")
    iterations: int = Field(200, ge=1, le=100_000, description="most iterations")
    tolerance: float = Field(1e-3, gt=0, description="change of the level set at which it stops")

    about: ClassVar[str] = "two even regions with a short border (Chan-Vese level set); components of the brighter"
    ndims: ClassVar[tuple[int, ...]] = (2,)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from skimage.segmentation import chan_vese

        scaled = unit_range(values[0])
        if not scaled.any():
            return Found(mask=scaled > 0, notes=("an image of one value",))
        start = np.where(otsu_mask(scaled)[0], 1.0, -1.0)
        mask, _, energies = chan_vese(scaled, mu=self.mu, tol=self.tolerance, max_num_iter=self.iterations,
                                      init_level_set=start, extended_output=True)
        return Found(mask=_brighter(mask, scaled), notes=(counted(len(energies), "iteration"),))


@dataclass(frozen=True, config=_FORBID)
class ActiveContour:
    """Two regions of even intensity, the contour of Otsu's mask moved by morphology (Márquez-Neila et al. 2014)."""

    iterations: int = Field(20, ge=1, le=100_000, description="iterations")
    smoothing: int = Field(1, ge=0, le=10, description="smoothing steps of the contour per iteration")

    about: ClassVar[str] = "two even regions (morphological Chan-Vese active contour); components of the brighter"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from skimage.segmentation import morphological_chan_vese

        scaled = unit_range(values[0])
        if not scaled.any():
            return Found(mask=scaled > 0, notes=("an image of one value",))
        if min(scaled.shape) < 2:
            raise DataError(f"an image of shape {scaled.shape}", expected="two voxels along every axis",
                            remedy="choose another segmenter")
        start = otsu_mask(scaled)[0]
        level = morphological_chan_vese(scaled, num_iter=self.iterations, init_level_set=start,
                                        smoothing=self.smoothing)
        return Found(mask=_brighter(level > 0, scaled))


def _brighter(mask: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The brighter of the two sides, which a level set leaves open."""
    if mask.all() or not mask.any():
        return np.zeros_like(mask)
    return np.asarray(mask if values[mask].mean() > values[~mask].mean() else ~mask)
