"""The page of a batch: one HTML file that says what failed and why, then shows what was found in every image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biosegkit._atomic import write_bytes
from biosegkit._words import agreeing, counted
from biosegkit.errors import FileError
from biosegkit.layouts import stem
from biosegkit.outputs import output_path
from biosegkit.pages import render
from biosegkit.plan.units import duration_text
from biosegkit.records import Outcome, kept_outcome

from .steps import steps_done, work_folder

__all__ = ["REPORT", "Left", "write_batch_report"]

#: Its name in the output folder.
REPORT = "report.html"
#: Pictures of a page, and pixels of their longer side: a page of this many can still be mailed.
MOST_PICTURES = 200
_SIDE = 640


@dataclass(frozen=True)
class Left:
    """An image that a batch which was stopped did not come to the end of.

    Parameters
    ----------
    input : str
    output : Path
    """

    input: str
    output: Path

    @property
    def before(self) -> Outcome | None:
        """The result of an earlier run, if there is one: what is done again is removed first."""
        try:
            return kept_outcome(self.input, self.output, "from before")
        except FileError:
            return None

    @property
    def standing(self) -> str:
        """What is there of an image without a result."""
        done = steps_done(work_folder(self.output))
        return "not begun" if done is None else f"{done.done} of {done.total} {done.what} kept"


def write_batch_report(out: str | Path, outcomes: Sequence[Outcome], *, about: Mapping[str, Any] | None = None,
                       left: Sequence[Left] = (), ended: str = "") -> Path:
    """Write the page of a batch into its folder and return its path.

    Failures come first, then images that are not done, those with notes, and the others, each in the order they were
    given. An image has a picture if its thumbnail stands beside its output, as
    :func:`biosegkit.outputs.write_all` leaves it.

    Parameters
    ----------
    out : path
        Folder of the outputs.
    outcomes : sequence of Outcome
        Of every image.
    about : dict, optional
        What the batch was made with: model, options, versions; shown at the end.
    left : sequence of Left
        Images that it did not come to the end of, since it was stopped or broken off.
    ended : str
        Why; "" for a batch that came to its end.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    folder = Path(out)
    before = [(one, one.before) for one in left]
    there = [*outcomes, *(found for _, found in before if found is not None)]
    waiting = [(one.input, one.standing) for one, found in before if found is None]
    failed = [o for o in there if o.error]
    done = sorted((o for o in there if not o.error), key=lambda o: not o.notes)
    shown = done[:MOST_PICTURES]
    page = render(
        "batch.html", title=folder.resolve().name, subtitle=counted(len(there) + len(waiting), "image"), ended=ended,
        tiles=_tiles(there, len(waiting)), failures=[{"input": o.input, "error": o.error} for o in failed],
        waiting=waiting,
        pictures=[_picture(o, folder) for o in shown],
        hidden=len(done) - len(shown),
        head=("image", "objects", "seconds", "state"),
        rows=[(o.input, "–" if o.objects is None else f"{o.objects}", f"{o.seconds:.1f}", o.state)
              for o in (*failed, *done)],
        about=[(str(k), str(v)) for k, v in (about or {}).items()])
    write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _tiles(outcomes: Sequence[Outcome], waiting: int) -> list[tuple[str, str]]:
    """The few figures a reader looks for first."""
    failed = sum(o.error is not None for o in outcomes)
    done, kept = len(outcomes) - failed, sum(o.state in ("kept", "from before") for o in outcomes)
    objects = [o.objects for o in outcomes if o.objects is not None]
    tiles = [(f"{done}", f"{agreeing(done, 'image')} done"), (f"{failed}", "failed")]
    if waiting:
        tiles.append((f"{waiting}", "not done"))
    if kept:
        tiles.append((f"{kept}", "of them kept from before"))
    if objects:
        tiles.append((f"{sum(objects):,}".replace(",", " "), agreeing(sum(objects), "object")))
    tiles.append((duration_text(sum(o.seconds for o in outcomes)), "in all images together"))
    return tiles


def _picture(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """What one image looks like, and what is to be said of it."""
    output = Path(outcome.output)
    file = output_path(output.with_name(stem(output)), "thumbnail")
    count = "" if outcome.objects is None else counted(outcome.objects, "object")
    return {"title": outcome.input, "count": count, "notes": list(outcome.notes),
            "data": _encoded(file) if file.is_file() else ""}


def _encoded(file: Path) -> str:
    """A picture as JPEG, no larger than needed, for a page that holds it."""
    from PIL import Image as Pillow

    with Pillow.open(file) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
