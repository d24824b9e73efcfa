"""Thresholds that a person chose become those of the model; what training found is kept beside them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace

from ._atomic import atomic_path, write_bytes
from .bundle import Bundle
from .errors import FileError
from .members import Members
from .methods.protocol import checked_thresholds

__all__ = ["save_thresholds"]


def save_thresholds(model: Bundle, thresholds: Mapping[str, float]) -> Bundle:
    """Write thresholds into a model's file, whole or not at all.

    Parameters
    ----------
    model : Bundle
        As it was loaded; its file must not have changed since.
    thresholds : dict of str to float
        Those not named stay.

    Returns
    -------
    Bundle
        The model with them. Its digest is another one, so that results of the old are not taken for its own.
        ``info["trained_thresholds"]`` is what training found.

    Raises
    ------
    OptionError
        For an unknown threshold or a value beyond its range.
    FileError
        If the file was changed by somebody else, or cannot be written.
    """
    used = checked_thresholds(model.segmenter.method.tunables, {**model.thresholds, **thresholds})
    place = model.path
    if place.is_dir() and not (place / "bundle.json").exists():
        place = place / "bundle"
    members = Members(place)
    info = json.loads(members.read("bundle.json"))
    if info != dict(model.info):
        raise FileError("a model that has changed since it was loaded", file=place, remedy="load it again")
    trained = info.get("trained_thresholds", info["thresholds"])
    new = {**info, "thresholds": used, "trained_thresholds": trained}
    if used == trained:
        del new["trained_thresholds"]
    data = (json.dumps(new, indent=2, ensure_ascii=False) + "\n").encode()
    if place.is_dir():
        write_bytes(place / "bundle.json", data)
    else:
        with atomic_path(place) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name in members.names:
                archive.writestr(zipfile.ZipInfo(name), data if name == "bundle.json" else members.read(name))
    digest = hashlib.sha256(data).hexdigest()
    return replace(model, segmenter=replace(model.segmenter, thresholds=used), info=new, digest=digest,
                   weights_digest=digest)
