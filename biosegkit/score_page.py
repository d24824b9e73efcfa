"""Scores for people: JSON and CSV, and one HTML file with tables, intervals and pictures of the worst cases."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._atomic import write_bytes, write_json
from ._words import counted
from .cases import Case
from .charts import bar_chart, reliability_chart
from .error_map import AGREED, COLOURS, INVENTED, MISSED, WRONG, error_codes, error_picture
from .errors import BiosegError, OptionError
from .overlay import BOTH, PREDICTED, TRUTH, Overlay, compose, informative_slice, png_bytes
from .pages import render
from .pairing import Pairs
from .scores import tables, write_csv
from .scores.tables import case_table, number, rank, remarks, span, titled

__all__ = ["companions", "write_page", "write_scores"]

#: Cases pictured.
_WORST, _BEST = 6, 2
#: Pictures with a longer side are thinned out to this many pixels.
_SIDE = 480
_GAP = 6
Array = npt.NDArray[Any]


def companions(path: str | Path) -> tuple[Path, Path]:
    """The CSV and the page that stand beside a ``scores.json``.

    Raises
    ------
    OptionError
        If the file is not to be JSON.
    """
    file = Path(path)
    if file.suffix.lower() in (".csv", ".html", ".htm", ".png"):
        raise OptionError(f"-o {file.name}", expected="a name ending in .json",
                          remedy=f"-o {file.with_suffix('.json').name}; the CSV and the page are written beside it")
    return file.with_suffix(".csv"), file.with_suffix(".html")


def write_scores(scores: Mapping[str, Any], path: str | Path, pairs: Pairs | None = None) -> list[Path]:
    """Write a record as JSON, CSV beside it, and with ``pairs`` the page with pictures; return the files.

    Raises
    ------
    OptionError
        If the path has the ending of another format.
    FileError
        If a file cannot be written.
    """
    table, page = companions(path)
    write_json(path, scores)
    write_csv(scores, table)
    if pairs is None:
        return [Path(path), table]
    write_page(scores, page, pairs)
    return [Path(path), table, page]


def write_page(scores: Mapping[str, Any], path: str | Path, pairs: Pairs) -> None:
    """Write the page of a scores record: what it says, and pictures of its worst and best cases.

    Only the cases shown are read again, one at a time. Images are shown if the truth came with them.

    Parameters
    ----------
    scores : dict
        A scores record.
    path : path
        The HTML file; everything is inside.
    pairs : Pairs
        What was scored.
    """
    first = next(iter(scores["headline"]), "")
    ranked = sorted((row for row in scores["cases"] if np.isfinite(rank(row, first))), key=lambda row: rank(row, first))
    best = ranked[-_BEST:] if len(ranked) > _WORST + _BEST else []
    worst = ranked[:_WORST] if best else ranked
    cases = {case.id: case for case in pairs.dataset}
    blocks = [block for block in (*tables(scores), case_table(scores)) if block.rows]
    page = render(
        "scores.html", title="Scores", subtitle=_subtitle(scores), tiles=_tiles(scores),
        scores=[block._asdict() for block in blocks], definitions=list(scores["definitions"].items()),
        notes=remarks(scores), legend=_legend(scores["task"]),
        worst_title="Worst cases" if best else "Cases, worst first", charts=_charts(scores, ranked, first),
        worst=[_picture(pairs, cases[row["case"]], row, first) for row in worst],
        best=[_picture(pairs, cases[row["case"]], row, first) for row in reversed(best)])
    write_bytes(path, page.encode())


def _subtitle(scores: Mapping[str, Any]) -> str:
    return f"{counted(len(scores['cases']), 'case')}, {scores['task']} segmentation"


def _tiles(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Value, interval and name of the scores to look at first."""
    made = scores.get("intervals", {})
    level = f"{100 * made.get('level', 0.95):g} %: "
    return [(number(value), f"{level}{ends}" if (ends := span(made.get("headline", {}).get(name))) else "",
             titled(name, scores["unit"])) for name, value in scores["headline"].items() if value is not None]


def _legend(task: str) -> list[tuple[str, str]]:
    """Colours of both panels."""
    unmatched = " objects (no match at IoU 0.5)" if task == "instance" else ""
    other = "where such objects overlap: in pieces, merged, badly drawn" if task == "instance" else "another class"
    lines = [(TRUTH, "outline of the truth"), (PREDICTED, "of the prediction"), (BOTH, "of both")]
    fills = [(COLOURS[INVENTED], f"false{unmatched}"), (COLOURS[MISSED], f"missed{unmatched}"),
             (COLOURS[WRONG], other), (COLOURS[AGREED], "right")]
    return [(f"rgb{colour}", name) for colour, name in (*lines, *fills)]


def _charts(scores: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]], first: str) -> list[dict[str, str]]:
    """All cases beside each other, and the reliability of the probabilities."""
    charts = []
    if len(ranked) > 1:
        data = bar_chart([row["case"] for row in ranked], [row[first] for row in ranked], first)
        charts.append({"title": f"{first} of every case", "data": _encoded(data), "note": ""})
    if "calibration" in scores:
        found = scores["calibration"]
        note = (f"{counted(found['voxels'], 'voxel')} where truth or prediction is not background; expected "
                f"calibration error {number(found['ece'])}. Below the line the model is surer than it may be, above it "
                "less sure.")
        charts.append({"title": "Reliability of the probabilities", "data": _encoded(
            reliability_chart(found["reliability"])), "note": note})
    return charts


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _picture(pairs: Pairs, case: Case, row: Mapping[str, Any], first: str) -> dict[str, str]:
    """Outlines on the image beside the errors, in the plane with most errors."""
    found, truth = pairs.load(case)
    codes = error_codes(found, truth)
    note, image = "", None
    if pairs.has_images:
        try:
            image = np.asarray(pairs.dataset.load_image(case).array)
        except BiosegError:
            note = ", image cannot be read"
    if image is None or image.shape[1:] != truth.array.shape:
        image = np.zeros((1, *truth.array.shape), np.uint8)
    parts, place = _plane(image, truth.restored(), found.restored(), codes, truth.grid.spacing)
    left = compose(Overlay("", *parts[:3]), width=_SIDE)
    right = error_picture(parts[0], parts[3])
    factor = left.shape[0] // right.shape[0]
    right = right.repeat(factor, axis=0).repeat(factor, axis=1)
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    return {"title": f"{case.id}{place}{note}", "score": f"{first} {number(row[first])}",
            "data": _encoded(png_bytes(np.hstack([left, gap, right])))}


def _plane(image: Array, truth: Array, found: Array, codes: Array, spacing: Sequence[float]) -> tuple[
        tuple[Array, Array, Array, Array], str]:
    """Image, truth, prediction and errors of one plane, thinned out if large, and where it is."""
    place = ""
    while truth.ndim > 2:  # volumes are cut across their coarsest axis
        axis = int(np.argmax(np.round(spacing[-truth.ndim:], 6)))
        planes = [np.moveaxis(array, axis, 0) for array in (truth, found, codes)]
        stack = np.moveaxis(image, axis + 1, 0)
        wrong = np.where(planes[2] > AGREED, planes[2], 0)
        index = informative_slice(stack, *([wrong] if wrong.any() else planes[:2]))
        image, (truth, found, codes) = stack[index], (array[index] for array in planes)
        spacing = [s for k, s in enumerate(spacing) if k != axis]
        place += f", slice {index + 1} of {len(stack)}"
    step = -(-max(truth.shape) // _SIDE)
    thin = (slice(None, None, step),) * 2
    return (image[(slice(None), *thin)], truth[thin], found[thin], codes[thin]), place
