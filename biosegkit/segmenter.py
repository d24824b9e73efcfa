"""A plan and its networks at work on one image: tiles, grid, decoding, and what to do when memory runs out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .errors import DataError, PlanError
from .grid import Grid
from .image import Image
from .ladder import Rung, ladder
from .lattice import Lattice
from .methods import METHODS, Block, Method
from .methods.classes import WithClasses
from .methods.protocol import ArrayDict, State, checked_thresholds, flipped
from .nets.attention_unet import AttentionUNet, Looking
from .nets.unetplusplus import at_depth
from .normalize import nonfinite_mask
from .plan.objective import Objective
from .plan.schema import Plan
from .planes import JOINED_NOTE
from .predictor import Prediction
from .prepared import Prepared, decoding_spacing, prepare, turn_of
from .reduced import Place, Reduced, reduced
from .slabs import blocks, cut_blocks, paste, regrid
from .tidy import Tidy, tidy_of
from .tiling import Forward, Nothing, Part, Slab, blend, is_out_of_memory

__all__ = ["Segmenter", "method_of"]

#: Voxels decoded together per task; changes memory only. Objects have tables per block, classes nothing.
_BLOCK = {"semantic": 2**20, "instance": 2**22}


def method_of(plan: Plan) -> Method:
    """The method of a plan with its options; a semantic one learns classes and regions from the table of labels.

    Where objects have classes, the method has a head for them.

    Raises
    ------
    PlanError
        For a method or an option that does not exist.
    """
    if plan.method not in METHODS:
        raise PlanError(f"method {plan.method!r}", expected=f"one of {', '.join(METHODS)}", remedy="correct the plan")
    options = dict(plan.method_options)
    if plan.method == "semantic":
        options.setdefault("n_classes", len(plan.labels.names))
        if plan.labels.regions:
            options.setdefault("regions", [classes for _, classes in plan.labels.regions])
    t = plan.training
    objective = Objective(t.loss, tuple(t.loss_options.items()), t.class_weights)
    try:
        method: Method = METHODS[plan.method](**options, objective=objective)
    except TypeError as error:
        raise PlanError(f"options {sorted(options)} of method {plan.method} ({error})",
                        remedy="correct the plan") from error
    kinds = plan.labels.object_values
    return WithClasses(method, len(kinds)) if kinds else method


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A plan with trained networks: a predictor with maps (see :class:`biosegkit.predictor.MapPredictor`).

    Parameters
    ----------
    plan : Plan
    networks : tuple of Module
        One per fold, in evaluation mode, on ``device``; their maps are averaged.
    device : torch.device
    thresholds : dict of str to float
        Tuned after training; the method's defaults otherwise.
    batch : int, optional
        Tiles per call; changes speed, and maps by no more than a network's rounding (1e-6).
    depth : str
        What `at_depth` was asked for; empty for whole networks.
    tidy : Tidy, optional
        Post-processing of the labels.
    """

    plan: Plan
    networks: tuple[nn.Module, ...]
    device: torch.device
    thresholds: Mapping[str, float]
    batch: int | None = None
    depth: str = ""
    tidy: Tidy | None = None

    def tidied(self, **options: Any) -> Segmenter:
        """With other post-processing: fields of :class:`biosegkit.tidy.TidyObjects` or ``TidyClasses``, the rest kept.

        Raises
        ------
        OptionError
            For an unknown option or a wrong value.
        """
        kept = {} if self.tidy is None else asdict(self.tidy)
        return replace(self, tidy=tidy_of(self.plan.labels, {**kept, **options}))

    def at_depth(self, depth: int | str) -> Segmenter:
        """With networks cut back to a depth, which is faster, or answering with the ``"mean"`` of all depths.

        Raises
        ------
        OptionError
            For networks without such a depth; only U-Net++ has several.
        """
        return replace(self, networks=tuple(at_depth(n, depth) for n in self.networks), depth=str(depth))

    @property
    def method(self) -> Method:
        """The plan's method."""
        return method_of(self.plan)

    def predict(self, image: Image, *, tta: bool = False, thresholds: Mapping[str, float] | None = None,
                maps: bool = False) -> Prediction:
        """Segment one image.

        Parameters
        ----------
        image : Image
        tta : bool
            Average the maps of mirrored copies, over the axes the plan mirrors in training.
        thresholds : dict of str to float, optional
            Override those of the model.
        maps : bool
            Also return the dense maps on the image's grid.

        Raises
        ------
        DataError
            If the image does not fit the plan, or the network returns values that are not finite (fault V3).
        OptionError
            For an unknown threshold.
        """
        used = checked_thresholds(self.method.tunables, {**self.thresholds, **(thresholds or {})})
        return self._laddered(image, _Wish(used, tta, maps))

    def maps(self, image: Image, *, tta: bool = False) -> dict[str, npt.NDArray[np.float32]]:
        """Dense maps (C, *space) on the image's grid, not decoded."""
        found = self._laddered(image, _Wish({}, tta, maps=True, labels=False)).maps
        return dict(found or {})

    def attention(self, image: Image) -> dict[str, npt.NDArray[np.float32]]:
        """How much of each skip the gates of an Attention U-Net let through.

        Returns
        -------
        dict of ndarray, (1, *space)
            Coefficients from 0 to 1 on the image's grid, by level (``"level 0"`` is full resolution), averaged over
            tiles and folds; empty for networks without gates.
        """
        if not all(isinstance(n, AttentionUNet) for n in self.networks):
            return {}
        return dict(self._laddered(image, _Wish({}, tta=False, maps=True, labels=False, attention=True)).maps or {})

    def _laddered(self, image: Image, wish: _Wish) -> Prediction:
        """Go down the ladder until memory suffices."""
        prepared = prepare(image, self.plan)
        rungs = ladder(self.plan, self.device, self.batch)
        notes: tuple[str, ...] = (*prepared.notes, *self._remarks(image, wish, prepared.measured.nothing))
        for rung in rungs:
            if rung.note:
                notes = (*notes, f"out of memory: {rung.note}")
            try:
                filled = nonfinite_mask(np.asarray(image.array[:])) if prepared.measured.filled else None
                return replace(self._run(image, prepared, rung, wish), notes=notes, filled=filled)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            _release(self.device)
        raise DataError(f"not enough memory on {self.device}, even for one tile of {rungs[-1].patch}",
                        file=image.source or None, remedy="close other programs, or plan again with less --memory")

    def _remarks(self, image: Image, wish: _Wish, nothing: bool) -> list[str]:
        """What the user should know about how the result came about."""
        said = ["nothing to see in any channel: all is background"] if nothing else []
        if wish.tta and not self.mirrored:
            said.append("test-time augmentation changes nothing: this model was trained without mirroring")
        if self.plan.labels.task == "instance" and image.grid.ndim > self.plan.configuration.ndim and wish.labels:
            said.append(JOINED_NOTE)
        return said

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The axes that training mirrors."""
        return tuple(a for a in self.plan.training.augmentation.mirror_axes if a < self.plan.configuration.ndim)

    def states(self, image: Image, *, tta: bool = False,
               hold: Callable[[Iterable[State]], Sequence[State]] = tuple) -> Reduced:
        """The image reduced to what thresholds act on, for thresholds that are moved live.

        ``states(image).decode(thresholds)`` is ``predict(image, thresholds=thresholds)`` without the network, and much
        faster than :meth:`decode` from maps.

        Parameters
        ----------
        image : Image
        tta : bool
            As for :meth:`predict`.
        hold : callable
            Takes the states one by one and returns them as a sequence, which may lie on disk; in memory by default.
        """
        made: list[Reduced] = []
        notes = self._laddered(image, _Wish({}, tta, maps=False, hold=hold, keep=made.append)).notes
        return replace(made[-1], notes=notes)

    def decode(self, maps: Mapping[str, npt.NDArray[np.float32]], thresholds: Mapping[str, float],
               grid: Grid | None = None, window: tuple[slice, ...] | None = None) -> Prediction:
        """Labels from maps, without the network.

        Parameters
        ----------
        maps : dict of ndarray, (C, *space)
            As :meth:`maps` returned them.
        thresholds : dict of str to float
            Override those of the model.
        grid : Grid, optional
            The image's; without it axes are taken to be canonical and of unit spacing.
        window : tuple of slice, optional
            The crop of the turned image that the network saw; all of it by default.
        """
        grid = grid or Grid.regular(next(iter(maps.values())).shape[1:])
        turn = turn_of(grid, self.plan)
        turned = {name: turn.apply(np.asarray(value)) for name, value in maps.items()}
        full = grid.turned(turn)
        window = window or tuple(slice(0, n) for n in full.shape)
        cut = {n: torch.from_numpy(np.ascontiguousarray(a[(slice(None), *window)])) for n, a in turned.items()}
        shape = tuple(w.stop - w.start for w in window)
        parts = blocks([(0, cut)], shape, self._planes(shape), self.method.halo, decoding_spacing(full, self.plan))
        return self._reduced(parts, Place(grid, turn, window)).decode(thresholds)

    def _planes(self, shape: tuple[int, ...]) -> int:
        """Planes of a block that is decoded at once."""
        return max(1, _BLOCK[self.plan.labels.task] // math.prod(shape[1:]))

    def _reduced(self, parts: Iterator[tuple[ArrayDict, Block]], place: Place) -> Reduced:
        """What is decoded, block by block as the blocks come."""
        stacked = self.plan.labels.task == "instance" and place.grid.ndim > self.plan.configuration.ndim
        method = self.method
        return Reduced(self.plan, method, reduced(method, parts, stacked), place, self.thresholds, tidy=self.tidy)

    def _run(self, image: Image, prepared: Prepared, rung: Rung, wish: _Wish) -> Prediction:
        """One attempt on one rung of the ladder."""
        shape = tuple(w.stop - w.start for w in prepared.window)
        planes = self._planes(shape)
        slabs = self._slabs(image, prepared, rung, wish, planes)
        found: dict[str, npt.NDArray[np.float32]] = {}
        spacing = decoding_spacing(image.grid.turned(prepared.turn), self.plan)
        parts = blocks(slabs, shape, planes, self.method.halo, spacing)
        if wish.maps:
            parts = _kept(parts, found, prepared, image.grid.shape)
        if not wish.labels:
            deque(parts, maxlen=0)
            parts = iter(())
        made = self._reduced(parts, Place(image.grid, prepared.turn, prepared.window, image.source))
        if wish.keep is not None:
            wish.keep(replace(made, states=wish.hold(made.states)))
            return Prediction(made.nothing)
        prediction = made.decode(wish.thresholds) if wish.labels else Prediction(made.nothing)
        return replace(prediction, maps=found if wish.maps else None)

    def _slabs(self, image: Image, prepared: Prepared, rung: Rung, wish: _Wish, planes: int) -> Iterator[Slab]:
        """Blended maps on the turned and cropped image's grid."""
        slabs = self._blended(prepared, rung, wish, planes)
        target = tuple(w.stop - w.start for w in prepared.window)
        if target == prepared.shape:
            return slabs
        spacing = image.grid.turned(prepared.turn).spacing
        working = tuple(s * n / m for s, n, m in zip(spacing, target, prepared.shape, strict=True))
        return regrid(slabs, prepared.shape, target, (working, spacing), planes)

    def _blended(self, prepared: Prepared, rung: Rung, wish: _Wish, planes: int, part: Part | None = None
                 ) -> Iterator[Slab]:
        """Blended maps on the grid of the network."""
        plan, lead = self.plan, len(prepared.shape) - self.plan.configuration.ndim
        axes = self.mirrored if wish.tta else ()
        networks = self.networks
        if wish.attention:
            networks = tuple(Looking(n) for n in networks if isinstance(n, AttentionUNet))
        if rung.device != self.device:
            networks = tuple(network.to(rung.device) for network in networks)
        forward = Forward(networks, _AsTheyAre() if wish.attention else self.method, rung.device, axes,
                          plan.training.memory_format == "channels_last", plane=lead > 0)
        answer: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] = forward
        if prepared.measured.nothing and not wish.attention:
            answer = Nothing(self.method, plan.configuration.ndim, rung.device)
        lattice = self.lattice(prepared.shape, rung)
        batch = math.ceil(len(lattice) / math.ceil(len(lattice) / rung.batch))
        return blend(partial(prepared.read, size=lattice.patch), lattice, answer, batch=batch, device=rung.sums,
                     planes=planes, part=part)

    def lattice(self, shape: tuple[int, ...], rung: Rung | None = None) -> Lattice:
        """Where the tiles of an image of this shape are; of more axes than the network has, the first is one by one."""
        first = rung or ladder(self.plan, self.device, self.batch)[0]
        lead = len(shape) - self.plan.configuration.ndim
        return Lattice(shape, (1,) * lead + first.patch, (1,) * lead + first.step)

    def region_parts(self, prepared: Prepared, wanted: Sequence[Block], *, tta: bool = False,
                     tiles: Callable[[tuple[int, ...]], bool] | None = None, planes: int = 64
                     ) -> Iterator[tuple[ArrayDict, Block]]:
        """Maps of blocks of a large image, bit by bit those of the whole image; memory follows the blocks.

        Parameters
        ----------
        prepared : Prepared
            On the grid of the network.
        wanted : sequence of Block
            That fill a box, by their place; tiles between them are computed once.
        tta : bool
            As for :meth:`predict`.
        tiles : callable, optional
            Whether the tile that starts at a voxel is worth looking at; others are taken for background.
        planes : int
            Planes that are handed on together; changes memory only.

        Yields
        ------
        maps : dict of ndarray, (C, *block.array_shape)
        block : Block
        """
        softmax = tuple(h.name for h in self.method.heads(self.plan.configuration.ndim) if h.activation == "softmax")
        rungs = [r for r in ladder(self.plan, self.device, self.batch) if not r.note.startswith("approximate")]
        left = list(wanted)
        for rung in rungs:
            read = [block.read for block in left]
            region = tuple(slice(min(r[a].start for r in read), max(r[a].stop for r in read))
                           for a in range(len(prepared.shape)))
            part = Part(region) if tiles is None else Part(region, tiles, softmax)
            lattice = self.lattice(prepared.shape, rung)
            seen = [slice(max(0, r.start - p), r.stop + p) for r, p in zip(region, lattice.patch, strict=True)]
            try:
                rolling, wish = prepared.rolling(seen, lattice.patch), _Wish({}, tta, maps=True)
                slabs = self._blended(rolling, rung, wish, planes, part)
                for maps, block in cut_blocks(slabs, region, tuple(left)):
                    left.remove(block)
                    yield maps, block
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or rung is rungs[-1]:
                    raise
            else:
                return
            _release(self.device)


@dataclass(frozen=True)
class _Wish:
    """What a caller asked for."""

    thresholds: Mapping[str, float]
    tta: bool
    maps: bool
    labels: bool = True
    attention: bool = False
    hold: Callable[[Iterable[State]], Sequence[State]] = tuple
    keep: Callable[[Reduced], None] | None = None


class _AsTheyAre:
    """The activation of maps that need none."""

    def activate(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In float32."""
        return {name: value.float() for name, value in outputs.items()}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flipped."""
        return flipped(maps, axes)


def _kept(parts: Iterator[tuple[ArrayDict, Block]], found: dict[str, npt.NDArray[np.float32]], prepared: Prepared,
          shape: tuple[int, ...]) -> Iterator[tuple[ArrayDict, Block]]:
    """Pass blocks on and keep their cores as whole maps on the image's grid."""
    for maps, block in parts:
        for name, value in maps.items():
            if name not in found:
                found[name] = np.zeros((value.shape[0], *shape), np.float32)
            paste(prepared.turn.apply(found[name]), prepared.window, block, value[(slice(None), *block.core)])
        yield maps, block


def _release(device: torch.device) -> None:
    """Give cached memory back before the next attempt."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
