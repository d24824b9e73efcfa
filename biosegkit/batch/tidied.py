"""Labels of blocks with their post-processing, as far as its steps are decided; what is decided lies in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.methods import Block, ObjectTable
from biosegkit.methods.tables import Tally
from biosegkit.state_files import ArrayFile, write_arrays
from biosegkit.tidy import Frame, TidyObjects

from .tidying import Step, applied, decided_step

__all__ = ["Tidied", "off_border"]


@dataclass(frozen=True, eq=False)
class Tidied:
    """The blocks of an image, and what post-processing does to them.

    Parameters
    ----------
    folder : Path
        Of the decisions.
    blocks : sequence of Block
        That fill the image.
    steps : sequence of Step
    plain : callable
        Labels of the core of block ``k``, before any step.
    unseen : sequence of bool
        Blocks that nobody looked at.
    """

    folder: Path
    blocks: Sequence[Block]
    steps: Sequence[Step]
    plain: Callable[[int], npt.NDArray[Any]]
    unseen: Sequence[bool]

    def labels(self, number: int) -> npt.NDArray[Any]:
        """Labels of the core of a block after all steps that are decided."""
        labels = self.plain(number)
        for k, step in enumerate(self.steps):
            if self._after(number, k).exists():
                file = ArrayFile(self._after(number, k))
                labels = applied(labels, step, (file["values"], file["changed"]))
        return labels

    def decide(self, count: int) -> npt.NDArray[np.int64] | None:
        """Write what the steps do to the pieces of every block.

        Parameters
        ----------
        count : int
            The largest label before.

        Returns
        -------
        ndarray of int64, optional
            By label after all steps the one before; None where there is no step.
        """
        owner = None
        for k, step in enumerate(self.steps):  # those that are not decided yet have no files
            lookups, mine = decided_step(step, self.blocks, self.labels, self.unseen)
            for number, (values, changed) in enumerate(lookups):
                if changed.any():
                    write_arrays(self._after(number, k), {"values": values, "changed": changed})
            if step.kind == "pieces":
                owner = mine
        if not self.steps:
            return None
        return np.arange(count + 1) if owner is None else owner

    def counted(self, count: int) -> tuple[ObjectTable, npt.NDArray[np.int64]]:
        """The table of the labels after all steps, ``count`` at most, by first voxel; and the labels."""
        tally = Tally(count, len(self.blocks[0].shape))
        for number, block in enumerate(self.blocks):
            labels = self.labels(number)
            if labels.any():
                tally.add(labels, np.ones(block.shape, np.uint8), block)
        alive = np.flatnonzero(tally.area > 0)
        alive = alive[np.argsort(tally.first[alive])]
        return tally.table(alive + 1, alive + 1, 1.0), alive + 1

    def _after(self, number: int, step: int) -> Path:
        """What a step does to a block."""
        return self.folder / f"{number}-step-{step}.safetensors"


def off_border(table: ObjectTable, tidy: object, frame: Frame, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which objects of an array stay: with ``border_objects="remove"`` not those at a side of the image."""
    kept = np.ones(len(table["id"]), bool)
    if not isinstance(tidy, TidyObjects) or tidy.border_objects == "keep":
        return kept
    for name, sides, leaves, size in zip("zyx"[-len(shape):], frame.sides, frame.leaves, shape, strict=True):
        if leaves and sides[0]:
            kept &= table[f"bbox_start_{name}"] > 0
        if leaves and sides[1]:
            kept &= table[f"bbox_stop_{name}"] < size
    return kept
