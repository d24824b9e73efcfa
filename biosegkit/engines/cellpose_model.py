"""Cellpose models as predictors: networks of versions 1 to 3 in our own torch, of version 4 from its package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, replace
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from biosegkit._atomic import sha256
from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.device import pick
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.methods.decoding import decode
from biosegkit.methods.flow import Flow
from biosegkit.methods.flow_decoding import WORST
from biosegkit.methods.protocol import Tunable, checked_thresholds
from biosegkit.predictor import Prediction
from biosegkit.tables import merged_rows, stacked_rows
from biosegkit.tidy import Frame, TidyObjects, tidied_digest, tidy_objects

from .cellpose_network import build_cellpose, looks_like_cnn
from .found import relative
from .intensities import Channel, part_of, space_axes, stretched
from .options import split_options
from .planes import PlaneNet
from .torch_file import read_state

__all__ = ["CellposeModel", "CellposeOptions", "load_cellpose"]

Floats = npt.NDArray[np.float32]
#: Raw channels and the voxel size relative to the finest axis, to flow (D, *space) and logit (*space).
Runner = Callable[[Floats, tuple[float, ...]], tuple[Floats, Floats]]

_EXPECTED = ("a file of Cellpose weights: of version 4 (cpsam, cpsam_v2, cpdino, or trained by yourself), or of "
             "version 1 to 3 (cyto, cyto2, cyto3, nuclei, or trained by yourself)")
_LICENCE = "not stated by the file; the official weights are reported as CC-BY-NC, not for commercial use"
#: Flows are learnt five times as long as they are.
_LONGER = 5.0
#: The backbone of version 4 with tiles of 256 pixels; others have 384.
_SAM = "sam_vitl"
#: Bytes per voxel of the image, and of what it is resized to for the network; measured on nuclei.
_BYTES, _RESIZED = 75, 35
_UNCHECKED = "flows of a stack are not checked, as in Cellpose; --threshold flow_error=0.4 checks them"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CellposeOptions:
    """How images are given to a Cellpose model."""

    channel: Channel = Field(default="all", description="channel of the cells, counted from 0; all: the mean of all "
                             "before version 4, the first three in version 4")
    nuclei: int = Field(default=-1, ge=-1, description="channel of the nuclei, for models before version 4 that look "
                        "at both; -1: none")
    diameter: float = Field(default=0.0, ge=0, description="mean diameter of the objects, in voxels of the finest "
                            "axis; 0: as in training, or no resizing in version 4")
    low: float = Field(default=1.0, ge=0, lt=100, description="percentile of the intensities that becomes 0")
    high: float = Field(default=99.0, gt=0, le=100, description="percentile of the intensities that becomes 1")
    decoder: Literal["forest", "euler"] = Field(default="forest", description="how far paths along the flow are "
                                                "followed before they are joined: forest, 2 voxels; euler, 16")


@plain_dataclass(frozen=True, eq=False)
class CellposeModel:
    """A Cellpose model: a predictor with maps.

    Parameters
    ----------
    name : str
    version : str
        ``"1-3"`` or ``"4"``.
    run : callable
        Raw channels to flow and logit.
    options : CellposeOptions
    digest : str
        SHA-256 of weights and options: the model's identity.
    notes : tuple of str
    tidy : TidyObjects
        Post-processing.
    """

    name: str
    version: str
    run: Runner
    options: CellposeOptions
    digest: str
    notes: tuple[str, ...] = ()
    tidy: TidyObjects = field(default_factory=TidyObjects)

    @property
    def method(self) -> Flow:
        """Decoding: objects are where paths along the flow meet."""
        return Flow(decoder=self.options.decoder)

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Thresholds that can be replaced; where Cellpose has one like it, its default is Cellpose's."""
        own = {"flow_error": 0.4, "min_size": 15.0}
        return {name: replace(t, default=own.get(name, t.default)) for name, t in self.method.tunables.items()}

    @property
    def record(self) -> dict[str, Any]:
        """What is written beside results."""
        return {"engine": "cellpose", "name": self.name, "version": self.version, "licence": _LICENCE,
                "digest": self.digest, "options": asdict(self.options) | asdict(self.tidy),
                "thresholds": {name: t.default for name, t in self.tunables.items()}}

    def predict(self, image: Image) -> Prediction:
        """Segment one image.

        Raises
        ------
        DataError
            For values that are not finite.
        OptionError
            For a channel that is not there.
        """
        maps, notes = self._mapped(image)
        found = self.decode(maps, {}, image.grid)
        labels = replace(found.labels, source=image.source)
        return replace(found, labels=labels, notes=tuple(notes))

    def maps(self, image: Image) -> dict[str, Floats]:
        """Probability of ``foreground`` (1, *space) and ``flow`` (D, *space) of length one at most."""
        return self._mapped(image)[0]

    def decode(self, maps: Mapping[str, Floats], thresholds: Mapping[str, float],
               grid: Grid | None = None) -> Prediction:
        """Labels from maps; ``grid`` is the image's, of unit spacing if left out.

        In three axes flows are not checked unless ``flow_error`` is given, as in Cellpose.
        """
        space = maps["foreground"].shape[1:]
        place = grid or Grid.regular(space)
        axes = tuple(a for a, n in enumerate(space) if len(maps["flow"]) == len(space) or n > 1)
        plane = {name: m.reshape(len(m), *(space[a] for a in axes)) for name, m in maps.items()}
        chosen = self.chosen(thresholds, len(axes))
        array, table = decode(self.method, plane, chosen, relative([place.spacing[a] for a in axes]))
        if self.tidy != TidyObjects():
            array, table = tidy_objects(array, self.tidy, Frame.whole(array.shape), min_size=chosen["min_size"],
                                        table=table)
        if axes == (1, 2):  # a stack of one plane
            table = merged_rows(stacked_rows(table, 0, np.arange(len(table["id"]) + 1, dtype=np.uint32)))
        table = {name: column for name, column in table.items() if name != "first"}
        ids = np.arange(len(table["id"]) + 1, dtype=np.int64)
        return Prediction(Labels(array.reshape(space), place, ids, "instance"), table)

    def chosen(self, given: Mapping[str, float], ndim: int) -> dict[str, float]:
        """All thresholds for images of so many axes: the given ones, else the defaults.

        Raises
        ------
        OptionError
            For an unknown threshold, or a value out of its range.
        """
        unchecked = {"flow_error": WORST} if ndim == 3 else {}
        return checked_thresholds(self.tunables, {**unchecked, **given})

    def memory(self, image: Image) -> int:
        """Bytes beyond the image, at their peak; no voxel is looked at."""
        factor = self.run.factor if isinstance(self.run, PlaneNet) else 1.0
        return int((_BYTES + _RESIZED * factor ** len(space_axes(image))) * image.grid.voxels)

    def notes_of(self, image: Image) -> list[str]:
        """What there is to say of the model and of the channels it is given.

        Raises
        ------
        OptionError
            For a channel that is not there.
        """
        count, o = image.array.shape[0], self.options
        for number in (n for n in (o.channel, o.nuclei) if n != "all"):
            if int(number) >= count:
                raise OptionError(f"channel {number} of an image of {counted(count, 'channel')}",
                                  file=image.source or None,
                                  expected=f"0 to {count - 1}", remedy="correct --option channel or nuclei")
        notes = [f"Cellpose model {self.name}, version {self.version}; licence {_LICENCE}", *self.notes]
        notes += [_UNCHECKED] if len(space_axes(image)) == 3 else []
        if o.channel == "all" and count > (3 if self.version == "4" else 1):
            notes.append(f"{'the first three' if self.version == '4' else 'the mean'} of {count} channels was used; "
                         "--option channel=N chooses one")
        return notes

    def intensities(self, image: Image, box: Sequence[slice]) -> Floats:
        """A box of the channels, (C, *box), not yet stretched: cells and, if asked for, nuclei; up to 3 in version 4.

        Raises
        ------
        DataError
            For values that are not finite.
        """
        o = self.options
        values = np.asarray(part_of(image, box).array, np.float32)
        if not np.isfinite(values).all():
            raise DataError("values that are not finite", file=image.source or None, expected="finite intensities",
                            remedy="replace them where the image was made")
        if o.channel != "all":
            cells = values[int(o.channel)][None]
        elif self.version == "4":
            cells = values[:3]
        else:
            cells = values.mean(axis=0, keepdims=True)
        return cells if o.nuclei < 0 else np.concatenate([cells, values[o.nuclei][None]])

    def _mapped(self, image: Image) -> tuple[dict[str, Floats], list[str]]:
        """Maps on the image's grid, and notes."""
        notes, axes, shape = self.notes_of(image), space_axes(image), image.grid.shape
        values = self.intensities(image, [slice(0, shape[a]) for a in axes])
        values = stretched(values, self.options.low, self.options.high, joint=False, notes=notes)
        maps = activated(*self.run(values, relative([image.grid.spacing[a] for a in axes])))
        return {name: m.reshape(len(m), *shape) for name, m in maps.items()}, notes


def activated(flow: Floats, logit: Floats) -> dict[str, Floats]:
    """Probability of ``foreground`` (1, *space) and ``flow`` (D, *space) of length one at most, of what a network says.

    Examples
    --------
    >>> activated(np.array([[5.0], [0.0]], np.float32), np.zeros(1, np.float32))["flow"].tolist()
    [[1.0], [0.0]]
    """
    flow = flow / _LONGER
    flow /= np.maximum(np.sqrt(np.square(flow).sum(axis=0, keepdims=True)), 1.0)
    foreground = 1.0 / (1.0 + np.exp(-logit.clip(-60, 60)))
    return {"foreground": foreground[None].astype(np.float32), "flow": flow.astype(np.float32)}


def load_cellpose(path: str | Path, device: str | torch.device = "auto",
                  options: Mapping[str, Any] | None = None) -> CellposeModel:
    """A Cellpose model from its file of weights; a bare name is looked for where Cellpose keeps its models.

    Raises
    ------
    FileError
        If there is no such file (nothing is downloaded), or it is damaged or of another kind.
    OptionError
        For a wrong option, or a package that is missing.
    """
    chosen, tidy = split_options("cellpose", (CellposeOptions, TidyObjects), options or {})
    if chosen.low >= chosen.high:
        raise OptionError(f"percentiles {chosen.low:g} to {chosen.high:g}", expected="low below high",
                          remedy="correct --option low or high")
    file, where = _located(str(path)), pick(device)
    state = read_state(file, _EXPECTED)
    told = json.dumps(asdict(chosen), sort_keys=True)
    digest = tidied_digest(hashlib.sha256((sha256(file) + told).encode()).hexdigest(), tidy)
    if "W2" in state:
        if chosen.nuclei >= 0:
            raise OptionError("nuclei with a model of version 4", expected="all channels in one, in any order",
                              remedy="leave out --option nuclei")
        model = _package(file, state, where)
        tile = 256 if getattr(model, "backbone", _SAM) == _SAM else 384
        run = PlaneNet(partial(_packaged, model), where, 3, 30.0 / (chosen.diameter or 30.0), tile, filled=True,
                       square=True)
        return CellposeModel(file.name, "4", run, chosen, digest, tidy=tidy)
    if not looks_like_cnn(state):
        raise FileError(f"tensors {', '.join(sorted(state)[:4])}, …", file=file, expected=_EXPECTED,
                        remedy="give the weights of a Cellpose model that segments")
    net = build_cellpose(state, str(file)).to(where)
    takes = int(state["downsample.down.res_down_0.conv.conv_0.2.weight"].shape[1])
    if takes != (given := 2) and (takes != 1 or chosen.nuclei >= 0):
        raise FileError(f"a network that takes {counted(takes, 'channel')}", file=file,
                        expected=f"{given}, cells and nuclei",
                        remedy="other variants of the network are not run here")
    mean, trained, notes = _diameters(state, file.name)
    factor = mean / (chosen.diameter or trained)
    run = PlaneNet(net, where, takes, factor)
    return CellposeModel(file.name, "1-3", run, chosen, digest, notes, tidy)


def _located(name: str) -> Path:
    """The file: as given, or of this name in the folder where Cellpose keeps its models."""
    given = Path(name).expanduser()
    home = Path(os.environ.get("CELLPOSE_LOCAL_MODELS_PATH") or Path.home() / ".cellpose" / "models")
    places = [given] if given.name != name else [given, home / name]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise FileError(f"no file {' or '.join(str(p) for p in places)}", file=given, expected=_EXPECTED,
                    remedy="fetch the weights yourself and give their path; nothing is downloaded here")


def _diameters(state: Mapping[str, Tensor], name: str) -> tuple[float, float, tuple[str, ...]]:
    """Mean diameter that images are resized to, and that of the training objects, in pixels."""
    if name.startswith("nuclei"):
        return 17.0, 17.0, ("diameter 17, which Cellpose takes for files of this name",)
    found = [float(state[key].float().mean()) for key in ("diam_mean", "diam_labels") if key in state]
    if not found:
        return 30.0, 30.0, ("diameter 30, as the file states none",)
    if min(found) <= 0:
        raise FileError(f"diameters {found}", file=name, expected="positive numbers", remedy="copy the file again")
    return found[0], found[-1], ()


def _packaged(model: Any, tiles: Tensor) -> Tensor:
    """Flow and logit of tiles by the network of the package."""
    found: Tensor = model.net(tiles.to(model.net.dtype))[0]
    return found[:, -3:]  # classes come before


def _package(file: Path, state: Mapping[str, Tensor], device: torch.device) -> Any:
    """The model of the cellpose package; the file is there, so that nothing is downloaded."""
    if "encoder.cls_token" in state and importlib.util.find_spec("dinov3") is None:
        raise OptionError("a model on DINOv3, whose package is not installed", file=file, expected="the package dinov3",
                          remedy="install it as Cellpose's documentation says, or use cpsam")
    before = torch.backends.cuda.matmul.allow_tf32
    models = optional("cellpose.models")
    model = models.CellposeModel(gpu=device.type != "cpu", pretrained_model=str(file), device=device,
                                 use_bfloat16=device.type == "cuda")
    torch.backends.cuda.matmul.allow_tf32 = before  # the package switches it for everybody
    model.net.eval()
    return model
