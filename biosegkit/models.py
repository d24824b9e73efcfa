"""What can be used as MODEL here: runs and bundles below a folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._atomic import read_json
from .errors import BiosegError

__all__ = ["find_models"]

#: How deep below the folder is looked, and how large a manifest may be.
_DEPTH, _LARGEST = 3, 16 << 20


def find_models(folder: str | Path = ".") -> list[dict[str, Any]]:
    """Models below a folder, three levels deep, by path.

    Returns
    -------
    list of dict
        ``model`` (its path), ``task``, ``method``, ``network``, ``channels`` (how many), ``scores`` (a dict) and
        ``improvement`` (what :func:`biosegkit.improvement.improvement` has found); what cannot be read is empty.
    """
    return [_described(path) for path in sorted(_found(Path(folder), _DEPTH))]


def _found(folder: Path, depth: int) -> Iterator[Path]:
    """Folders with a manifest (a run rather than the bundle in it) and zip files with one."""
    if (folder / "bundle" / "bundle.json").is_file() or (folder / "bundle.json").is_file():
        yield folder
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir() and depth:
            yield from _found(path, depth - 1)
        elif path.suffix == ".zip" and _manifest(path) is not None:
            yield path


def _manifest(path: Path, name: str = "bundle.json") -> Any:
    """A JSON member of a run, bundle or zip; None if it is not there or damaged."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(name).file_size > _LARGEST:
                    return None
                return json.loads(archive.read(name))
        home = path / "bundle" if (path / "bundle").is_dir() else path
        return read_json(home / name)
    except (BiosegError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _described(path: Path) -> dict[str, Any]:
    """What a model says of itself."""
    info, plan = (_manifest(path, name) for name in ("bundle.json", "plan.json"))
    info, plan = (value if isinstance(value, dict) else {} for value in (info, plan))
    scores = info.get("scores")
    headline = scores.get("headline", scores) if isinstance(scores, dict) else {}
    labels, configuration = plan.get("labels", {}), plan.get("configuration", {})
    network = f"{configuration.get('architecture', {}).get('name', '')} {configuration.get('name', '')}".strip()
    gain = _manifest(path, "../improvement.json") if (path / "bundle").is_dir() else None
    return {"model": str(path), "task": labels.get("task", ""), "method": plan.get("method", ""), "network": network,
            "channels": len(plan.get("preprocessing", {}).get("channels", ())),
            "improvement": gain if isinstance(gain, dict) else {}, "scores": {
                k: v for k, v in headline.items() if isinstance(v, int | float)}}
