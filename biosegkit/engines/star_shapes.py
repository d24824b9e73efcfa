"""From candidates of a StarDist model to objects, by the rules of StarDist and our own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._words import counted
from biosegkit.errors import FileError
from biosegkit.kernels.rays import Rays, circle
from biosegkit.kernels.star_nms import suppress
from biosegkit.kernels.star_painting import paint_shapes

from .star_config import StarConfig

__all__ = ["Candidates", "rays_of", "render"]

#: Kinds of directions and their settings; a name in a file never becomes code (fault S3).
_RAYS: Mapping[str, Mapping[str, type]] = {
    "Rays_GoldenSpiral": {"n": int, "anisotropy": tuple}, "Rays_Tetra": {"n_level": int}, "Rays_Octo": {"n_level": int},
    "Rays_Cartesian": {"n_rays_x": int, "n_rays_z": int},
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places that may be objects.

    Parameters
    ----------
    points : ndarray of int64, (M, ndim)
        In voxels of the image.
    prob : ndarray of float32, (M,)
    dist : ndarray of float32, (M, n_rays)
    classes : ndarray of int64, (M,), optional
        1 to n, 0 for background.
    """

    points: npt.NDArray[np.int64]
    prob: npt.NDArray[np.float32]
    dist: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, maps: Mapping[str, npt.NDArray[np.float32]], least: float, grid: Sequence[int],
           start: Sequence[int] = ()) -> Candidates:
        """Those of maps (C, *space / grid) above a probability; the first cell is ``start`` of the image's."""
        above: tuple[Any, ...] = np.nonzero(maps["prob"][0] > least)
        first = start or (0,) * len(grid)
        points = (np.stack(above, 1) + np.asarray(first)) * np.asarray(grid)
        classes = maps["classes"].argmax(0)[above] if "classes" in maps else None
        return cls(points.astype(np.int64), maps["prob"][0][above], maps["dist"][:, *above].T, classes)

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them, the most probable first, then by place: an order that no cut into tiles changes."""
        found = cls.stacked(parts)
        return found.kept(np.lexsort((*found.points.T[::-1], -found.prob)))

    @classmethod
    def stacked(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them, as they come."""
        classes = None if parts[0].classes is None else np.concatenate([p.classes for p in parts if
                                                                        p.classes is not None])
        return cls(np.concatenate([p.points for p in parts]), np.concatenate([p.prob for p in parts]),
                   np.concatenate([p.dist for p in parts]), classes)

    def kept(self, which: npt.NDArray[Any]) -> Candidates:
        """Some of them."""
        classes = None if self.classes is None else self.classes[which]
        return Candidates(self.points[which], self.prob[which], self.dist[which], classes)


def rays_of(config: StarConfig, file: str) -> Rays:
    """Directions of a model.

    Raises
    ------
    FileError
        For a kind that is not known, settings that do not belong to it, or another number than the network gives.
    """
    if config.ndim == 2:
        return circle(config.n_rays)
    data = config.rays_json or {}
    name, settings = data.get("name"), data.get("kwargs")
    known = _RAYS.get(name, {}) if isinstance(name, str) else {}
    settings = settings if isinstance(settings, dict) else {"": None}
    fits = known and set(settings) <= set(known) and all(
        v is None or (isinstance(v, int) and 0 < v <= 4096) or (isinstance(v, list) and len(v) == 3 and all(
            isinstance(f, int | float) and f > 0 for f in v)) for v in settings.values())
    if not fits:
        raise FileError(f"rays {str(data)[:80]}", file=file, expected=f"one of {', '.join(_RAYS)} with its settings",
                        remedy="directions of one's own are not run here")
    import stardist.rays3d

    rays = getattr(stardist.rays3d, str(name))(**settings)
    if len(rays) != config.n_rays:
        raise FileError(counted(len(rays), "direction"), file=file, expected=f"n_rays, {config.n_rays}",
                        remedy="config.json is damaged")
    return Rays(np.asarray(rays.vertices, np.float64), np.ascontiguousarray(rays.faces, np.int32))


def render(found: Candidates, shape: Sequence[int], rays: Rays, overlap: float) -> tuple[
        npt.NDArray[np.uint32], Candidates]:
    """Objects painted in an image, and the candidates they are, so that object ``k`` is candidate ``k - 1``.

    Parameters
    ----------
    found : Candidates
        The most probable first.
    shape : sequence of int
    rays : Rays
    overlap : float
        Largest common area of two objects, as a part of the smaller one.
    """
    leader = suppress(found.points, found.dist, rays, threshold=overlap)
    best = found.kept(np.flatnonzero(leader >= 0))
    ids = np.arange(len(best.prob), 0, -1)  # the last one painted wins: the most probable
    return paint_shapes(shape, best.points[::-1], best.dist[::-1], rays, ids=ids), best
