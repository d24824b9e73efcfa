"""Rules that grow regions: SLIC superpixels, random walker, watershed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from biosegkit._words import counted
from biosegkit.kernels.components import connected_components

from .found import Found, unit_range, voxels
from .thresholds import otsu_mask

__all__ = ["RandomWalker", "Slic", "Watershed"]

_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_FORBID)
class Slic:
    """Superpixels (Achanta et al. 2012); those above Otsu's threshold of their means join into objects."""

    width: float = Field(6, ge=2, description="width of a superpixel, in voxels")
    compactness: float = Field(0.1, gt=0, description="weight of nearness against likeness, for intensities of 0 to 1")
    joined: bool = Field(True, description="join bright superpixels into objects; no: every superpixel is an object")

    about: ClassVar[str] = "superpixels, joined where they are bright"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = True

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from scipy import ndimage
        from skimage.segmentation import slic

        scaled = np.stack([unit_range(channel) for channel in values])
        volume = float(np.prod(scale)) * scaled[0].size
        count = max(1, round(volume / self.width**scaled[0].ndim))
        pieces = slic(scaled, n_segments=count, compactness=self.compactness, spacing=scale, convert2lab=False,
                      start_label=1, channel_axis=0)
        if not self.joined:
            return Found(objects=pieces, notes=(counted(int(pieces.max()), "superpixel"),))
        means = ndimage.mean(scaled.mean(axis=0), pieces, np.arange(1, int(pieces.max()) + 1))
        bright, threshold = otsu_mask(np.asarray(means))
        return Found(mask=np.concatenate([[False], bright])[pieces],
                     notes=(f"{counted(int(pieces.max()), 'superpixel')}, threshold {threshold:.4g} of their means",))


@dataclass(frozen=True, config=_FORBID)
class RandomWalker:
    """Voxels far from Otsu's threshold are certain; a random walk from the others decides (Grady 2006)."""

    beta: float = Field(1000, gt=0, description="how much a difference in intensity hinders the walk")
    certain: float = Field(0.2, ge=0, lt=1, description="how far from the threshold, between it and the mean of its "
                           "side, a voxel is certain")

    about: ClassVar[str] = "random walk from voxels that are certain by Otsu's threshold; components"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from skimage.segmentation import random_walker

        scaled = unit_range(values[0])
        mask, threshold = otsu_mask(scaled)
        if not mask.any():
            return Found(mask=mask, notes=("nothing above the threshold",))
        high = threshold + self.certain * (float(scaled[mask].mean()) - threshold)
        low = threshold - self.certain * (threshold - float(scaled[~mask].mean()))
        seeds = np.where(scaled > high, 2, np.where(scaled < low, 1, 0))
        open_ = int((seeds == 0).sum())
        said = f"{counted(open_, 'voxel')} between {low:.4g} and {high:.4g} of the range left to the walk"
        if not (open_ and (seeds == 1).any() and (seeds == 2).any()):
            return Found(mask=mask, notes=(f"{said}: all decided by the threshold",))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            decided = random_walker(scaled, seeds, beta=self.beta, mode="cg_j", tol=1e-5, prob_tol=0.01, spacing=scale)
        notes = (said, "the walk's equations are solved roughly; a smaller beta helps") if told else (said,)
        return Found(mask=np.asarray(decided == 2), notes=notes)


@dataclass(frozen=True, config=_FORBID)
class Watershed:
    """The mask above Otsu's threshold, cut along the valleys between its peaks."""

    on: Literal["distance", "intensity"] = Field("distance", description="peaks of the distance to the background, or "
                                                 "of the intensity")
    apart: float = Field(5, ge=1, description="least distance of two peaks, in voxels")
    seed_sigma: float = Field(1, ge=0, le=100, description="smoothing of what the peaks are sought in, in voxels")

    about: ClassVar[str] = "Otsu's mask, touching objects cut between peaks of distance or intensity"
    ndims: ClassVar[tuple[int, ...]] = (2, 3)
    multichannel: ClassVar[bool] = False

    def find(self, values: npt.NDArray[Any], scale: Sequence[float]) -> Found:
        """See :class:`biosegkit.engines.classical.Rule`."""
        from scipy.ndimage import distance_transform_edt, gaussian_filter
        from skimage.feature import peak_local_max
        from skimage.segmentation import watershed

        mask, threshold = otsu_mask(values[0])
        pieces, count = connected_components(mask)
        said = f"threshold {threshold:g}"
        if not count:
            return Found(mask=mask, notes=(said,))
        height = distance_transform_edt(mask, sampling=scale) if self.on == "distance" else unit_range(values[0])
        height = gaussian_filter(np.asarray(height, np.float64), [self.seed_sigma / s for s in scale])
        peaks = peak_local_max(height, min_distance=1, footprint=np.ones(voxels(2 * self.apart, scale)), labels=pieces,
                               exclude_border=False)
        markers = np.zeros(mask.shape, np.int64)
        markers[tuple(peaks.T)] = 1
        markers, number = connected_components(markers > 0)  # neighbours of equal height are one peak
        objects = watershed(-height, markers, mask=mask, connectivity=mask.ndim)
        return Found(objects=objects, notes=(f"{said}, {count} components, {number} peaks",))
