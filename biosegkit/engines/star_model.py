"""Official StarDist models as predictors: weights from HDF5, our own network and kernels, StarDist's rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from biosegkit.device import pick
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.kernels.rays import Rays
from biosegkit.methods.protocol import Tunable
from biosegkit.predictor import Prediction
from biosegkit.progress import counted
from biosegkit.tidy import Frame, TidyObjects, numbered, tidied_digest, tidy_objects

from .intensities import Channel, chosen_channels, space_axes, stretched
from .keras_weights import read_layers
from .options import split_options
from .star_config import StarConfig
from .star_files import StarFiles, read_star
from .star_network import StarNetwork, build_star, reach
from .star_shapes import Candidates, rays_of, render
from .star_tiles import Region, Tiles

__all__ = ["StarModel", "StarOptions", "load_star"]

#: Voxels of a tile beside its surroundings, per axis, by the number of axes.
_CORE = {2: 512, 3: 64}
#: Takes the start of a tile, and its maps.
Hold = Callable[[tuple[int, ...], dict[str, npt.NDArray[np.float32]]], None]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StarOptions:
    """How images are given to a StarDist model."""

    channel: Channel = Field(default=0, description="channel, counted from 0, for models that take one")
    low: float = Field(default=1.0, ge=0, lt=100, description="percentile of the intensities that becomes 0")
    high: float = Field(default=99.8, gt=0, le=100, description="percentile of the intensities that becomes 1")
    joint: bool = Field(default=False, description="percentiles of all channels together, not of each")
    border: int = Field(default=2, ge=0, description="cells of the model's grid along the image's border in which no "
                        "object is centred")
    tile: int = Field(default=0, ge=0, description="width of a tile in voxels, without its surroundings; 0: 512 in 2D, "
                      "64 in 3D")


@plain_dataclass(frozen=True, eq=False)
class StarModel:
    """A StarDist model: a predictor with maps.

    Parameters
    ----------
    network : StarNetwork
        On ``device``.
    files : StarFiles
        What was read, the bytes of the weights left out.
    rays : Rays
    options : StarOptions
    device : torch.device
    digest : str
        SHA-256 of weights, settings and options: the model's identity.
    tidy : TidyObjects
        Post-processing.
    """

    network: StarNetwork
    files: StarFiles
    rays: Rays
    options: StarOptions
    device: torch.device
    digest: str
    tidy: TidyObjects = field(default_factory=TidyObjects)

    @property
    def config(self) -> StarConfig:
        """The network's settings."""
        return self.files.config

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Thresholds that can be replaced."""
        t = self.files.thresholds
        return {"prob": Tunable(t.prob, 0.0, 1.0, 1, "least probability of an object"),
                "nms": Tunable(t.nms, 0.0, 1.0, 1, "largest overlap of two objects, as a part of the smaller")}

    @property
    def record(self) -> dict[str, Any]:
        """What is written beside results."""
        files = self.files
        return {"engine": "stardist", "name": files.name, "licence": files.licence or "not stated",
                "digest": self.digest,
                "options": asdict(self.options) | asdict(self.tidy), "thresholds": files.thresholds.model_dump()}

    def predict(self, image: Image) -> Prediction:
        """Segment one image.

        Raises
        ------
        DataError
            If axes or channels are others than the model takes.
        OptionError
            For a channel that is not there.
        """
        values, notes = self._prepared(image)
        shape = values.shape[1:]
        starts = self.tiles(shape).starts
        parts = [self.candidates(lambda box: values[:, *box], shape, [start])
                 for start in counted(starts, len(starts), "tiles")]
        found = Candidates.joined(parts)
        return self._finished(found, shape, self.chosen({})["nms"], image.grid, (image.source, notes))

    def maps(self, image: Image) -> dict[str, npt.NDArray[np.float32]]:
        """Object probability ``prob`` (1, *space), ray lengths ``dist`` (n, *space), and ``classes`` if there are any.

        On the image's grid: a cell of a coarser one is repeated.
        """
        values, _ = self._prepared(image)
        shape, grid = values.shape[1:], self.config.grid
        cells = tuple(-(-n // g) for n, g in zip(shape, grid, strict=True))
        whole: dict[str, npt.NDArray[np.float32]] = {}
        tiles = self.tiles(shape)
        for tile in counted(tiles.starts, len(tiles.starts), "tiles"):
            start = self._cells(tile)
            for name, part in self.own_maps(lambda box: values[:, *box], shape, tile).items():
                out = whole.setdefault(name, np.zeros((len(part), *cells), np.float32))
                place = tuple(slice(s, s + n) for s, n in zip(start, part.shape[1:], strict=True))
                clip = tuple(slice(0, max(0, c - s)) for c, s in zip(cells, start, strict=True))
                out[(slice(None), *place)] = part[(slice(None), *clip)]
        for axis, g in enumerate(grid, 1):
            whole = {name: m.repeat(g, axis) for name, m in whole.items()}
        crop = (slice(None), *(slice(0, n) for n in shape))
        return {name: m[crop].reshape(len(m), *image.grid.shape) for name, m in whole.items()}

    def decode(self, maps: Mapping[str, npt.NDArray[np.float32]], thresholds: Mapping[str, float],
               grid: Grid | None = None) -> Prediction:
        """Labels from maps; ``grid`` is the image's, of unit spacing if left out."""
        space = maps["prob"].shape[1:]
        shape = space if len(space) == self.config.ndim else tuple(n for n in space if n > 1)
        step = (slice(None), *(slice(None, None, g) for g in self.config.grid))
        cells = {name: m.reshape(len(m), *shape)[step] for name, m in maps.items()}
        chosen = self.chosen(thresholds)
        found = self._placed(Candidates.joined([Candidates.of(cells, chosen["prob"], self.config.grid)]), shape)
        return self._finished(found, shape, chosen["nms"], grid or Grid.regular(space), ("", []))

    def chosen(self, given: Mapping[str, float]) -> dict[str, float]:
        """All thresholds: the given ones, and those of the model."""
        return {name: float(given.get(name, t.default)) for name, t in self.tunables.items()}

    def _prepared(self, image: Image) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Intensities (C, *space) as the network takes them, and notes."""
        notes, o = self.notes_of(image), self.options
        values = chosen_channels(image, o.channel, self.config.n_channel_in, notes)
        values = values.reshape(len(values), *(image.grid.shape[a] for a in space_axes(image)))
        return stretched(values, o.low, o.high, joint=o.joint, notes=notes), notes

    def notes_of(self, image: Image) -> list[str]:
        """What there is to say of the model; images of other axes are refused."""
        axes, ndim = space_axes(image), self.config.ndim
        if len(axes) != ndim:
            raise DataError(f"an image of {len(axes)} axes", file=image.source or None,
                            expected=f"{ndim}, which this StarDist model takes",
                            remedy="choose another model" if ndim == 3 else "give single planes, or a 3D model")
        licence = self.files.licence
        return [f"StarDist model {self.files.name}, licence {licence or 'not stated by its files'}",
                *self.files.notes]

    def tiles(self, shape: Sequence[int]) -> Tiles:
        """How an image of this shape is cut."""
        divisor = self.config.divisor
        core = tuple(-(-(self.options.tile or _CORE[self.config.ndim]) // d) * d for d in divisor)
        halo = tuple(-(-r // d) * d for r, d in zip(reach(self.network, self.config), divisor, strict=True))
        return Tiles(tuple(shape), tuple(divisor), core, halo)

    def own_maps(self, source: Region, shape: Sequence[int], start: tuple[int, ...]
                 ) -> dict[str, npt.NDArray[np.float32]]:
        """Maps (C, *cells) of a tile without its surroundings, a value per cell of the model's grid.

        At the end of the image they go on over what is mirrored there. Parameters are those of :meth:`candidates`.
        """
        tiles = self.tiles(shape)
        inside = (slice(None), *tiles.inside(start, self.config.grid))
        with torch.inference_mode():
            outputs = self.network(torch.from_numpy(tiles.read(source, start))[None].to(self.device))
        return {name: m[0].float().cpu().numpy()[inside] for name, m in outputs.items()}

    def candidates(self, source: Region, shape: Sequence[int], starts: Sequence[tuple[int, ...]],
                   thresholds: Mapping[str, float] | None = None, hold: Hold | None = None) -> Candidates:
        """What may be objects in some tiles of an image, the most probable first.

        Parameters
        ----------
        source : callable
            Gives a box of the image as the network takes it.
        shape : sequence of int
            Of the image, as many axes as the model has.
        starts : sequence of tuple of int
            Of the tiles, at least one; see :meth:`tiles`.
        thresholds : dict of str to float, optional
        hold : callable, optional
            Given each tile's start and maps (:meth:`own_maps`) while they are there.
        """
        least, parts = self.chosen(thresholds or {})["prob"], []
        for start in starts:
            maps = self.own_maps(source, shape, start)
            if hold is not None:
                hold(start, maps)
            parts.append(Candidates.of(maps, least, self.config.grid, self._cells(start)))
        return self._placed(Candidates.joined(parts), shape)

    def _cells(self, start: Sequence[int]) -> tuple[int, ...]:
        return tuple(s // g for s, g in zip(start, self.config.grid, strict=True))

    def _placed(self, found: Candidates, shape: Sequence[int]) -> Candidates:
        """Those within the image and off its border, which StarDist counts on the padded image."""
        inside = np.ones(len(found.prob), bool)
        for axis, (n, d, g) in enumerate(zip(shape, self.config.divisor, self.config.grid, strict=True)):
            cell, cells = found.points[:, axis] // g, -(-n // d) * d // g
            inside &= (found.points[:, axis] < n) & (cell >= self.options.border) & (cell < cells - self.options.border)
        return found.kept(inside)

    def _finished(self, found: Candidates, shape: Sequence[int], overlap: float, grid: Grid,
                  said: tuple[str, list[str]]) -> Prediction:
        """Objects numbered by their first voxel, with the probability of the candidate each is."""
        painted, best = render(found, shape, self.rays, overlap)
        painted = painted.reshape(grid.shape)
        array, table, old = numbered(painted)
        which = old - 1
        table["score"] = best.prob[which].astype(np.float32)
        if best.classes is not None:
            table["class"] = best.classes[which].astype(np.int64)
        if self.tidy != TidyObjects():
            array, table = tidy_objects(array, self.tidy, Frame.whole(grid.shape), table=table)
        table.pop("first")
        ids = np.arange(len(table["id"]) + 1, dtype=np.int64)
        return Prediction(Labels(array, grid, ids, "instance", source=said[0]), table, notes=tuple(said[1]))


def load_star(path: str | Path, device: str | torch.device = "auto",
              options: Mapping[str, Any] | None = None) -> StarModel:
    """A StarDist model from a folder or zip.

    Raises
    ------
    FileError
        If files are missing, damaged or do not belong together; the message lists what is expected.
    OptionError
        For a wrong option, or if h5py is not installed.
    """
    chosen, tidy = split_options("stardist", (StarOptions, TidyObjects), options or {})
    if chosen.low >= chosen.high:
        raise OptionError(f"percentiles {chosen.low:g} to {chosen.high:g}", expected="low below high",
                          remedy="correct --option low or high")
    files, where = read_star(Path(path)), pick(device)
    network = build_star(files.config, read_layers(files.weights, f"{path}/{files.weights_name}"), str(path))
    rays = rays_of(files.config, str(path))
    told = json.dumps([files.config.model_dump(), files.thresholds.model_dump(), asdict(chosen)], sort_keys=True)
    digest = hashlib.sha256(hashlib.sha256(files.weights).digest() + told.encode()).hexdigest()
    kept = StarFiles(files.config, files.thresholds, b"", files.weights_name, files.licence, files.name, files.notes)
    return StarModel(network.to(where), kept, rays, chosen, where, tidied_digest(digest, tidy), tidy)
