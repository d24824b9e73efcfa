"""The page of a batch: one HTML file that says what failed and why, then shows what was found in every image."""

from __future__ import annotations

import base64
import io
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from biosegkit._atomic import write_bytes
from biosegkit._words import agreeing, counted
from biosegkit.errors import FileError
from biosegkit.layouts import stem
from biosegkit.outputs import OUTPUTS, output_path
from biosegkit.pages import render
from biosegkit.plan.units import duration_text
from biosegkit.records import Outcome, kept_outcome

from .steps import steps_done, work_folder

__all__ = ["REPORT", "Left", "Run", "resume_command", "write_batch_report"]

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


@dataclass(frozen=True)
class Run:
    """How a batch went, beside what became of its images.

    Parameters
    ----------
    left : sequence of Left
        Images that it did not come to the end of, since it was stopped or broken off.
    ended : str
        Why; "" for a batch that came to its end.
    seconds : float, optional
        From its start to its end.
    command : str
        What goes on with it; see :func:`resume_command`.
    """

    left: Sequence[Left] = ()
    ended: str = ""
    seconds: float | None = None
    command: str = ""


def resume_command(words: Sequence[str]) -> str:
    """The command that goes on with what a command began; "" for what was not begun by one.

    Parameters
    ----------
    words : sequence of str
        As in ``sys.argv``.

    Examples
    --------
    >>> resume_command(["/usr/bin/biosegkit", "predict", "run", "my slides", "-o", "out", "--overwrite"])
    "biosegkit predict run 'my slides' -o out --resume"
    >>> resume_command(["notebook.py"])
    ''
    """
    program, verb = (Path(words[0]).stem if words else ""), words[1] if len(words) > 1 else ""
    if program not in ("biosegkit", "__main__") or verb not in ("predict", "run"):
        return ""
    kept = ["biosegkit", *(word for word in words[1:] if word not in ("--overwrite", "--resume")), "--resume"]
    return subprocess.list2cmdline(kept) if os.name == "nt" else shlex.join(kept)


def write_batch_report(out: str | Path, outcomes: Sequence[Outcome], *, about: Mapping[str, Any] | None = None,
                       run: Run | None = None) -> Path:
    """Write the page of a batch into its folder and return its path.

    Failures come first, those with the same reason together; then images that are not done, those without objects or
    with notes, and the others, each in the order they were given. An image has a picture if its thumbnail stands beside
    its output, as :func:`biosegkit.outputs.write_all` leaves it, and links to the files that are there.

    Parameters
    ----------
    out : path
        Folder of the outputs.
    outcomes : sequence of Outcome
        Of every image.
    about : dict, optional
        What the batch was made with: model, options, versions; shown at the end.
    run : Run, optional

    Raises
    ------
    FileError
        If it cannot be written.
    """
    folder, run = Path(out), run or Run()
    before = [(one, one.before) for one in run.left]
    there = [*outcomes, *(found for _, found in before if found is not None)]
    waiting = [(one.input, one.standing) for one, found in before if found is None]
    failed = [o for o in there if o.error]
    done = sorted((o for o in there if not o.error), key=lambda o: (o.objects != 0, not o.notes))
    shown = done[:MOST_PICTURES]
    common = [note for note in shown[0].notes if all(note in o.notes for o in shown)] if len(shown) > 1 else []
    page = render(
        "batch.html", title=folder.resolve().name, verdict=_verdict(len(done), len(failed), len(waiting)),
        good=not (failed or waiting), ended=run.ended, command=run.command if failed or waiting else "",
        tiles=_tiles(there, run.seconds), failures=_reasons(failed), waiting=waiting,
        notes=common, pictures=[_picture(o, folder, common) for o in shown], hidden=len(done) - len(shown),
        rows=[(o.input, o.objects, f"{o.seconds:.1f}", o.state, _links(o, folder)) for o in (*failed, *done)],
        about=[(str(k), str(v)) for k, v in (about or {}).items()])
    _names_in.cache_clear()
    write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _verdict(done: int, failed: int, waiting: int) -> str:
    """The batch in a line.

    Examples
    --------
    >>> _verdict(18, 2, 0), _verdict(1, 0, 0), _verdict(3, 1, 4)
    ('18 of 20 images done, 2 failed', '1 of 1 image done', '3 of 8 images done, 1 failed, 4 not done yet')
    """
    more = [f"{failed} failed"] * bool(failed) + [f"{waiting} not done yet"] * bool(waiting)
    return ", ".join([f"{done} of {counted(done + failed + waiting, 'image')} done", *more])


def _tiles(outcomes: Sequence[Outcome], seconds: float | None) -> list[tuple[str, str]]:
    """The few figures a reader looks for next."""
    objects = [o.objects for o in outcomes if o.objects is not None]
    kept = sum(o.state in ("kept", "from before") for o in outcomes)
    tiles = []
    if objects:
        tiles.append((f"{sum(objects):,}".replace(",", " "), agreeing(sum(objects), "object")))
    if empty := objects.count(0):
        tiles.append((f"{empty}", f"{agreeing(empty, 'image')} without objects"))
    if kept:
        tiles.append((f"{kept}", "kept from before"))
    if seconds is not None:
        tiles.append((duration_text(seconds), "from start to end"))
    tiles.append((duration_text(sum(o.seconds for o in outcomes)), "of work on all images"))
    return tiles


def _reasons(failed: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Reasons, each with the images that failed by it; the file in a message is no difference."""
    groups: dict[str, list[Outcome]] = {}
    for one in failed:
        groups.setdefault(_reason(one), []).append(one)
    return [(members[0].error or "" if len(members) == 1 else reason, [one.input for one in members])
            for reason, members in groups.items()]


def _reason(failed: Outcome) -> str:
    """An error without the file that it begins with."""
    file, found, rest = (failed.error or "").partition(": found ")
    return f"found {rest}" if found and "; " not in file else failed.error or ""


@cache
def _names_in(folder: Path) -> frozenset[str]:
    """Asked for once per folder, and not once per file."""
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()  # noqa: PTH208 - names alone


def _links(outcome: Outcome, folder: Path) -> list[tuple[str, str]]:
    """What is there of an image: kinds, and addresses relative to the page."""
    output, there = Path(outcome.output), _names_in(Path(outcome.output).parent)
    start = output.with_name(stem(output))
    files = {"labels": output, **{kind: output_path(start, kind) for kind in OUTPUTS}}
    return [(kind, quote(os.path.relpath(file, folder).replace(os.sep, "/")))
            for kind, file in files.items() if file.name in there]


def _picture(outcome: Outcome, folder: Path, common: Sequence[str]) -> dict[str, Any]:
    """What one image looks like, and what is to be said of it."""
    output = Path(outcome.output)
    file = output_path(output.with_name(stem(output)), "thumbnail")
    count = "" if outcome.objects is None else counted(outcome.objects, "object")
    return {"title": outcome.input, "count": count, "empty": outcome.objects == 0,
            "notes": [note for note in outcome.notes if note not in common],
            "links": _links(outcome, folder), "data": _encoded(file) if file.is_file() else ""}


def _encoded(file: Path) -> str:
    """A picture as JPEG, no larger than needed, for a page that holds it."""
    from PIL import Image as Pillow

    with Pillow.open(file) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
