"""What the command line shows: errors, tables, and progress that also reads well in a log file."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ._words import counted
from .errors import BiosegError, Problem

if TYPE_CHECKING:
    from .plan.schema import Plan

__all__ = ["BatchProgress", "FileProgress", "TrainingProgress", "describe_plan", "out", "print_scores", "problem_table",
           "score_table", "show_error", "show_scores"]

#: Without a terminal a line of progress is written about every so many seconds.
LINE_SECONDS = 10.0
#: So many warnings that say the same are listed; of more the first few are shown.
ALIKE, SHOWN = 5, 3
_COLOURS = {"error": "bold red", "warning": "yellow"}


def out(*, stderr: bool = False) -> Console:
    """The console; plain and wide where it is no terminal, so that paths are not broken."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=200, soft_wrap=True)


def show_error(error: BiosegError) -> None:
    """An error as file, found, expected, remedy."""
    console = out(stderr=True)
    rows = (("file", error.file or ""), ("found", error.found), ("expected", error.expected), ("remedy", error.remedy))
    console.print("[bold red]error[/]")
    for name, text in rows:
        if text:
            console.print(f"  [bold]{name:<9}[/] {escape(text)}")


def _table(columns: Iterable[str], *, numbers_from: int = 99) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= numbers_from else "left", overflow="fold")
    return table


def problem_table(problems: Sequence[Problem], *, whole: bool = False) -> None:
    """All problems of a data set, errors first; of many warnings that say the same the first, unless ``whole``."""
    table = _table(("", "code", "case", "file", "found", "expected", "remedy"))
    ranked = sorted(problems, key=lambda problem: (problem.severity != "error", problem.code, problem.case))
    for _, group in groupby(ranked, key=lambda p: (p.severity, p.code, re.sub(r"[\d.]+", "#", p.found), p.remedy)):
        alike = list(group)
        some = alike if whole or alike[0].severity == "error" or len(alike) <= ALIKE else alike[:SHOWN]
        for p in some:
            cells = (p.code, p.case, p.file, p.found, p.expected, p.remedy)
            table.add_row(f"[{_COLOURS.get(p.severity, '')}]{p.severity}[/]", *(escape(cell) for cell in cells))
        if len(some) < len(alike):
            rest = counted(len(alike) - len(some), "case")
            table.add_row("", "", "", "", f"and {rest} more like these: doctor --verbose lists all", "", "")
    out().print(table)


def describe_plan(plan: Plan) -> None:
    """Every decision with its reason, and the table the method was chosen from."""
    table = _table(("decision", "value", "reason"))
    for decision in plan.decisions:
        table.add_row(f"[bold]{escape(decision.name)}[/]", escape(decision.value), escape(decision.reason))
    out().print(table)
    if plan.method_evidence:
        from .summaries import method_table

        found = method_table(plan.method_evidence)
        score_table(found["title"], found["head"], found["rows"], numbers_from=3)


def score_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> None:
    """A table with numbers to the right of the first column."""
    table = _table(columns, numbers_from=numbers_from)
    table.show_header = any(columns)
    table.title, table.title_justify, table.title_style = title or None, "left", "bold"
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out().print(table)


def show_scores(path: Path) -> None:
    """The scores of a run, where it has any."""
    from ._atomic import read_json

    if path.is_file():
        print_scores(read_json(path))


def print_scores(scores: dict[str, Any]) -> None:
    """The tables of a record of scores, then its notes."""
    from .scores.tables import remarks, tables

    for block in tables(scores):
        score_table(block.title, block.head, block.rows)
    for note in remarks(scores):
        out(stderr=True).print(note, style="yellow", markup=False)


class TrainingProgress:
    """Live progress of a training: step, loss, Dice, time left.

    On a terminal one line is renewed; elsewhere a plain line is written about every ten seconds. Use it as a context
    manager and pass it as ``progress``.
    """

    def __init__(self) -> None:
        from rich.live import Live

        self._console = out(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) \
            if self._console.is_terminal else None
        self._last, self._told = 0.0, ""
        self._known: dict[str, Any] = {"loss": float("nan")}

    def __enter__(self) -> TrainingProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Show one row of ``metrics.jsonl``, or a message ``{"stage": …}`` of a longer step."""
        if "step" not in row:
            if self._live:
                self._live.update("")
            self._known = {"loss": float("nan")}  # of the fold before
            self._console.print(escape(str(row.get("stage") or row.get("message") or "")), style="dim")
            return
        step, total = int(row["step"]), int(row.get("total") or 0)
        # rows of a validation have no loss and no time left: the last ones known still hold
        self._known |= {key: row[key] for key in ("loss", "left", "skipped") if row.get(key) is not None}
        text = _training_line({**row, **self._known}, step, total)
        if self._live:
            from rich.text import Text

            self._live.update(Text(text))
        elif text != self._told and (time.monotonic() - self._last >= LINE_SECONDS or step == total):
            self._last, self._told = time.monotonic(), text
            self._console.print(escape(text))


def _training_line(row: Mapping[str, Any], step: int, total: int) -> str:
    """``fold 0  step 120/600 [####....]  loss 0.412  Dice 0.81  1m20s left``."""
    from .plan.units import duration_text

    parts = [f"fold {row['fold']}"] if row.get("fold") is not None else []
    filled = 20 * step // total if total else 0
    parts.append(f"step {step}/{total or '?'} [{'#' * filled}{'.' * (20 - filled)}]  loss {float(row['loss']):.3f}")
    dice, left = row.get("dice"), row.get("left")
    if dice is not None and dice == dice:
        parts.append(f"Dice {dice:.3f}")
    if left is not None and left == left:
        parts.append(f"{duration_text(float(left))} left")
    if row.get("skipped"):
        parts.append(f"{counted(row['skipped'], 'step')} skipped")
    return "  ".join(parts)


class FileProgress:
    """One line per finished file; called with each outcome, how many are done, and how many there are.

    A note is shown with the first file that has it (numbers in it aside); all are in the files' records.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or out(stderr=True)
        self._said: set[str] = set()

    def __call__(self, outcome: Any, done: int, total: int) -> None:
        """Show one outcome of :func:`biosegkit.predict_files`."""
        head = f"[{done}/{total}]"
        objects = "" if getattr(outcome, "objects", None) is None else f", {counted(outcome.objects, 'object')}"
        if outcome.error:
            error = str(outcome.error).removeprefix(f"{outcome.input}: ")
            self._console.print(f"{escape(head)} [bold red]{outcome.state}[/] {escape(str(outcome.input))}: "
                                f"{escape(error)}")
        else:
            self._console.print(f"{escape(head)} {outcome.state} {escape(str(Path(outcome.output)))} "
                                f"({outcome.seconds:.1f}s{objects})")
        for note in getattr(outcome, "notes", ()):
            kind = re.sub(r"[\d.]+", "#", note)
            if kind not in self._said:
                self._said.add(kind)
                self._console.print(f"  {note}", style="yellow", markup=False)


class BatchProgress:
    """One line per finished file, and below how far the batch is: files, blocks, objects, seconds left.

    On a terminal the last line is renewed; elsewhere it is written about every ten seconds, where there is more than
    one file or a file in blocks. Use it as a context manager and pass it as ``progress``.
    """

    def __init__(self) -> None:
        from rich.live import Live

        console = out(stderr=True)
        self._files = FileProgress(console)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._console, self._last = console, time.monotonic()

    def __enter__(self) -> BatchProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, standing: Any, outcome: Any) -> None:
        """Show a :class:`biosegkit.batch.run.Standing`, and an outcome if there is one."""
        if outcome is not None:
            self._files(outcome, standing.ended, standing.images)
        if self._live:
            from rich.text import Text

            self._live.update(Text(_batch_line(standing)))
        elif time.monotonic() - self._last >= LINE_SECONDS and (standing.images > 1 or standing.blocks):
            self._last = time.monotonic()
            self._console.print(escape(_batch_line(standing)))


def _batch_line(standing: Any) -> str:
    """``image 3/20 [###.................]  block 17/240  1520 objects  1 failed  12m40s left``."""
    from .plan.units import duration_text

    filled = 20 * standing.ended // max(1, standing.images)
    parts = [f"image {standing.ended}/{standing.images} [{'#' * filled}{'.' * (20 - filled)}]"]
    if standing.blocks:
        parts.append(f"block {standing.blocks_ended}/{standing.blocks}")
    if standing.objects:  # a model of classes has none
        parts.append(counted(standing.objects, "object"))
    if standing.failed:
        parts.append(f"{standing.failed} failed")
    if standing.left:  # nothing left to compute is not the end: labels and files are still being written
        parts.append(f"{duration_text(standing.left)} left")
    elif standing.left is not None and standing.ended < standing.images:
        parts.append("writing results")
    return "  ".join(parts)
