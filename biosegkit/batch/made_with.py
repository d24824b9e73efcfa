"""What a batch is made with, for its page and its ledger: all that changes the result, by the names of options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biosegkit._atomic import sha256
from biosegkit.bundle import Bundle
from biosegkit.predictor import Predictor
from biosegkit.records import Wish

from .engine import Staff
from .tasks import Claim, Opening

__all__ = ["about_run", "rows_of"]


def about_run(opening: Opening, wish: Wish, staff: Staff) -> dict[str, Any]:
    """What the ledger says of a run; its hash of options is that of its images which no table describes further."""
    hashed = json.dumps(wish.data, sort_keys=True, default=str)
    options = {**wish.data, "tissue": _tissue(wish.tissue), "option": dict(opening.options), "depth": opening.depth,
               "device": opening.device}
    return {"version": Claim("", "").version, "model": Path(opening.model).name,
            "options": json.dumps(options, sort_keys=True, default=str), "model_hash": opening.digest,
            "options_hash": hashlib.sha256(hashed.encode()).hexdigest(),
            "workers": staff.scheduler or f"{staff.workers or 1} on this machine"}


def rows_of(about: Mapping[str, Any], model: Predictor, staff: Staff, states: Path | None = None) -> dict[str, str]:
    """The same for people: a row per option, also where it was left to the model.

    Parameters
    ----------
    about : dict
        See :func:`about_run`.
    model : Predictor
        Which knows the thresholds and the post-processing that nobody asked for.
    staff : Staff
    states : Path, optional
        Where states are kept.

    Examples
    --------
    >>> from biosegkit.engines import load_model
    >>> about = about_run(Opening("otsu", "cpu"), Wish(), Staff(2))
    >>> rows = rows_of(about, load_model("otsu"), Staff(2))
    >>> rows["model"], rows["tta"], rows["tissue"], rows["workers"]
    ('otsu', 'no', 'auto', '2 on this machine')
    """
    options: dict[str, Any] = json.loads(about["options"])
    reading = {name: value for name, value in options["reading"].items() if value not in (None, [], "")}
    rows = {
        "biosegkit": about["version"],
        "model": about["model"],
        "model hash": about["model_hash"] or "unknown",
        "threshold": _thresholds(model, options["thresholds"]),
        "tta": _yes(options["tta"]),
        "option": _pairs(model.postprocessing if isinstance(model, Bundle) else options["option"], "none"),
        "depth": options["depth"] or "",
        "tissue": options["tissue"],
        **{name.replace("_", "-"): _said(value) for name, value in reading.items()},
        "device": options["device"],
        "save-maps": _yes(options["save_maps"]),
        "also": ", ".join(options.get("also", ())) or "what is always written",
        "states": "" if states is None else states.name,
        "memory": "" if staff.memory is None else f"{staff.memory / 1e9:.3g} GB a worker",
        "workers": about["workers"],
    }
    return {name: text for name, text in rows.items() if text}


def _thresholds(model: Predictor, asked: Mapping[str, float]) -> str:
    """All of them, where the model names its own."""
    own = model.thresholds if isinstance(model, Bundle) else {}
    return _pairs({**own, **asked}, "" if isinstance(model, Bundle) else "its own") + (
        " (the model's)" if own and not asked else "")


def _tissue(choice: str) -> str:
    """The choice; of a mask its name and what is in it."""
    return choice if choice in ("auto", "off") else f"{Path(choice).name} (sha256 {sha256(choice)[:12]})"


def _pairs(values: Mapping[str, Any], none: str) -> str:
    return ", ".join(f"{name}={_said(value)}" for name, value in sorted(values.items())) or none


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return _yes(value)
    if isinstance(value, list | tuple):
        return " ".join(map(_said, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
