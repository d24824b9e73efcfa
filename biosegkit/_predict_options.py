"""The options of ``predict``: what changes the result, and who computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._endings import SLIDES
from ._options import pairs
from .errors import OptionError

if TYPE_CHECKING:
    from .batch.engine import Staff
    from .batch.tasks import Opening
    from .io import ReadOptions
    from .records import Wish

__all__ = ["Batching", "Predicting"]

_BATCH = "Many images"


@dataclass(frozen=True)
class Predicting:
    """How to predict."""

    resume: Annotated[bool, typer.Option("--resume", help="Leave results that are there and whole.")] = False
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies: slower, often better.")] = False
    threshold: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Replace a threshold of the model (repeatable).")] = None
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Write the network's maps too.")] = False
    also: Annotated[str | None, typer.Option(
        metavar="KIND,...", help="Write each image's result in further formats: csv, parquet, geojson (QuPath), rois "
        "(Fiji), coco, dicom, thumbnail (docs/outputs.md).")] = None
    states: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="Keep there what thresholds and post-processing act on; a later prediction that names "
        "the folder does not run the network again.")] = None
    depth: Annotated[str | None, typer.Option(
        metavar="N|mean", help="Cut a U-Net++ back to a depth (1 is the fastest), or average all depths.")] = None
    option: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Post-processing, e.g. fill_holes=yes (docs/methods.md), or another option of an "
        "engine, e.g. channel=1 (docs/engines.md); repeatable.")] = None

    def opening(self, model: str, device: str) -> Opening:
        """The model, with options of post-processing or of an engine."""
        from .batch.tasks import Opening

        return Opening(model, device, tuple(pairs(self.option, "--option", "name=value")), self.depth)

    def wish(self, reading: ReadOptions, tissue: str) -> Wish:
        """What changes the result."""
        from .outputs import checked_outputs
        from .records import Wish

        also = checked_outputs([kind.strip() for kind in (self.also or "").split(",") if kind.strip()])
        return Wish(self.tta, self.thresholds() or {}, self.save_maps, reading, also, tissue)

    def thresholds(self) -> dict[str, float] | None:
        """Thresholds by name."""
        try:
            return {name: float(value) for name, value in pairs(self.threshold, "--threshold", "name=value")} or None
        except ValueError as error:
            raise OptionError(f"--threshold {' '.join(self.threshold or [])}", expected="numbers, as in prob=0.5",
                              remedy="give a number after the equals sign") from error


@dataclass(frozen=True)
class Batching:
    """Who predicts, where many images are to be done."""

    workers: Annotated[int | None, typer.Option(
        min=1, metavar="N", help="Predict with so many processes, one thread each (extra batch; docs/batch.md).",
        rich_help_panel=_BATCH)] = None
    scheduler: Annotated[str | None, typer.Option(
        metavar="ADDRESS", help="Predict with the workers of a dask scheduler: tcp://host:8786 or its scheduler file.",
        rich_help_panel=_BATCH)] = None
    memory: Annotated[str | None, typer.Option(
        metavar="SIZE", help="Memory of one worker, e.g. 2GB; by default its share of the machine's.",
        rich_help_panel=_BATCH)] = None

    tissue: Annotated[str, typer.Option(
        metavar="auto|off|MASK", help="Where slides are looked at: on tissue, everywhere, or in a mask (an image, or a "
        "GeoJSON of regions).", rich_help_panel=_BATCH)] = "auto"

    def prepare(self, inputs: Sequence[str]) -> None:
        """Let workers of this machine, if there will be any, load their libraries while this process loads its own."""
        from .batch.head_start import head_start

        if self.scheduler is None and (self.workers or any(name.lower().endswith(SLIDES) for name in inputs)):
            head_start()

    def staff(self) -> Staff | None:
        """The workers asked for; None for none."""
        from .batch.engine import Staff
        from .plan.units import parse_memory

        if self.workers is None and self.scheduler is None and self.memory is None:
            return None
        return Staff(self.workers, self.scheduler, None if self.memory is None else parse_memory(self.memory))
