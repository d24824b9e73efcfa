"""An image whose maps were reduced to states: thresholds are moved and labels painted without network and maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Grid, Turn
from .image import Labels
from .methods import Block, Decisions, Method
from .methods.classes import decided
from .methods.protocol import ArrayDict, State, checked_thresholds, empty_table
from .plan.schema import Plan
from .planes import slice_by_slice
from .predictor import Prediction
from .slabs import paste
from .tables import turned_table
from .tidy import Frame, Tidy, TidyClasses, TidyObjects, tidy_classes, tidy_objects

__all__ = ["Place", "Reduced", "reduced"]


@dataclass(frozen=True)
class Place:
    """Where the states of an image belong: its grid, the turn to the plan's axes, and the crop of the turned image."""

    grid: Grid
    turn: Turn
    window: tuple[slice, ...]
    source: str = ""


@dataclass(frozen=True, eq=False)
class Reduced:
    """One image between network and labels; `Segmenter.states` makes it.

    Parameters
    ----------
    plan : Plan
    method : Method
        Of the plan.
    states : iterable of State
        Of all blocks, or of all planes of a stack for a 2D plan; only those kept in a sequence can be decoded again.
    place : Place
    thresholds : dict of str to float
        Of the model.
    notes : tuple of str
        For the predictions.
    tidy : Tidy, optional
        Post-processing of the labels.
    """

    plan: Plan
    method: Method
    states: Iterable[State]
    place: Place
    thresholds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    tidy: Tidy | None = None

    def decode(self, thresholds: Mapping[str, float] | None = None) -> Prediction:
        """Labels and objects: only ``resolve``, ``paint`` and the post-processing run.

        Parameters
        ----------
        thresholds : dict of str to float, optional
            Override those of the model.

        Raises
        ------
        OptionError
            For an unknown threshold or a value beyond its range.
        """
        used = checked_thresholds(self.method.tunables, {**self.thresholds, **(thresholds or {})})
        out = np.zeros(self.place.grid.shape, self._dtype)
        view, window = self.place.turn.apply(out), self.place.window
        table = self._tidied(view, window, self._painted(view, window, used), used.get("min_size", 0.0))
        table = turned_table(table, window, view.shape, self.place.turn)
        table = decided(table, self.plan.labels.object_values)
        return Prediction(self._labels(out), table, notes=self.notes)

    def _painted(self, view: npt.NDArray[Any], window: tuple[slice, ...], used: Mapping[str, float]) -> ArrayDict:
        """Write labels into the turned view; the table of objects in turned, cropped voxels (classes have none)."""
        method = self.method
        if self.plan.labels.task == "semantic":
            decisions = Decisions(dict(used), {}, empty_table(view.ndim))
            for state in self.states:
                paste(view, window, state.block, method.paint(state, decisions)[0])
            return {}
        if view.ndim > self.plan.configuration.ndim:
            return slice_by_slice(method, self.states, (view, window), used)
        states = self.states if isinstance(self.states, Sequence) else list(self.states)
        decisions = method.resolve(states, dict(used))
        for state in states:
            paste(view, window, state.block, method.paint(state, decisions)[0])
        return decisions.objects

    def _tidied(self, view: npt.NDArray[Any], window: tuple[slice, ...], table: ArrayDict,
                min_size: float) -> ArrayDict:
        """Post-process the labels of the turned view in place; the table of what is left."""
        if isinstance(self.tidy, TidyObjects) and self.tidy != TidyObjects():
            frame = Frame.of(window, view.shape, self.plan.configuration.ndim)
            view[window], table = tidy_objects(view[window], self.tidy, frame, min_size=min_size, table=table)
        elif isinstance(self.tidy, TidyClasses) and self.tidy != TidyClasses():
            frame = Frame.of(window, view.shape, view.ndim)
            view[window] = tidy_classes(view[window], self.tidy, self.plan.labels, frame)
        return table

    @property
    def nothing(self) -> Labels:
        """Labels of background alone."""
        return self._labels(np.zeros(self.place.grid.shape, self._dtype))

    @property
    def _dtype(self) -> Any:
        """Of labels: as small as classes allow; 32 bit for objects, whose number is not known yet."""
        if self.plan.labels.task == "instance":
            return np.uint32
        return np.uint8 if len(self.plan.labels.values) <= 256 else np.uint16

    def _labels(self, out: npt.NDArray[Any]) -> Labels:
        """With the user's values again; objects are their own ids."""
        table, place = self.plan.labels, self.place
        if table.task == "semantic":
            return Labels(out, place.grid, np.array(table.values, np.int64), "semantic", source=place.source)
        ids = np.arange(int(out.max(initial=0)) + 1, dtype=np.int64)
        return Labels(out, place.grid, ids, "instance", source=place.source)


def reduced(method: Method, parts: Iterable[tuple[ArrayDict, Block]], plane_by_plane: bool) -> Iterator[State]:
    """The state of every block, or of every plane of every block, one after the other."""
    for maps, block in parts:
        if not plane_by_plane:
            yield method.local(maps, block)
            continue
        for k in range(block.shape[0]):
            plane = {name: np.ascontiguousarray(a[:, block.before[0] + k]) for name, a in maps.items()}
            yield method.local(plane, Block.whole(block.shape[1:], block.spacing[1:]))
