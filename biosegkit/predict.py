"""From images to labels: one image, or files to files."""

from __future__ import annotations

import csv
import hashlib
import io as stream
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._atomic import read_json, sha256, write_bytes, write_json
from .bundle import Bundle
from .device import describe
from .errors import BiosegError, FileError, OptionError
from .exports import are_whole, export, export_paths
from .image import Image
from .inputs import Input, Job, find_jobs
from .io import ReadOptions, read, write
from .kept_states import KeptStates
from .methods.protocol import checked_thresholds
from .outputs import checked_outputs
from .predictor import MapPredictor, Prediction, Predictor
from .run_folder import locked
from .segmenter import Segmenter, method_of
from .signals import finish_first

__all__ = ["Outcome", "predict", "predict_files"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Parameters
    ----------
    input, output : str
        Files.
    state : {"done", "kept", "failed"}
        ``kept`` was there already and made from the same input, model and options.
    error : str, optional
        Why it failed.
    seconds : float
        Reading, network, decoding and writing.
    objects : int, optional
        Objects found; None for classes and failures.
    notes : tuple of str
        What was repaired or is unusual, also in the record; and whether kept states were used.
    """

    input: str
    output: str
    state: str
    error: str | None = None
    seconds: float = 0.0
    objects: int | None = None
    notes: tuple[str, ...] = ()


def predict(model: Predictor, image: Image, *, tta: bool = False, thresholds: Mapping[str, float] | None = None,
            maps: bool = False, depth: int | str | None = None) -> Prediction:
    """Segment one image.

    Parameters
    ----------
    model : Predictor
        A bundle, or any other; the options need a bundle, ``thresholds`` and ``maps`` one that offers maps.
    image : Image
    tta : bool
        Average the maps of mirrored copies.
    thresholds : dict of str to float, optional
        Override those of the model.
    maps : bool
        Also return the dense maps on the image's grid.
    depth : int or "mean", optional
        Of U-Net++: the depth that its networks are cut back to (1 is the fastest), or the mean of all; by default
        whole.

    Returns
    -------
    Prediction
        Labels on the grid of the input.

    Raises
    ------
    OptionError
        If the model cannot do what is asked for.
    """
    if isinstance(model, Bundle | Segmenter):
        chosen = model if depth is None else model.at_depth(depth)
        return chosen.predict(image, tta=tta, thresholds=thresholds, maps=maps)
    if depth is not None:
        raise OptionError("a depth with a model that is no bundle", remedy="leave out --depth")
    _refuse_impossible(model, tta, thresholds, maps)
    if not isinstance(model, MapPredictor) or not (thresholds or maps):
        return model.predict(image)
    dense = model.maps(image)
    found = model.decode(dense, dict(thresholds or {}), image.grid)
    return replace(found, maps=dense if maps else None)


def _refuse_impossible(model: Predictor, tta: bool, thresholds: Mapping[str, float] | None, maps: bool) -> None:
    """Options that the model cannot follow, or thresholds it does not have."""
    if isinstance(model, Bundle | Segmenter):
        checked_thresholds(method_of(model.plan).tunables, thresholds)
        return
    if tta:
        raise OptionError("test-time augmentation with a model that is no bundle", remedy="leave out --tta")
    if (thresholds or maps) and not isinstance(model, MapPredictor):
        raise OptionError("thresholds or maps with a model that has no maps", remedy="leave them out")
    tunables = getattr(model, "tunables", None)
    if tunables is not None:
        checked_thresholds(tunables, thresholds)


def predict_files(
    model: Predictor,
    inputs: Input | Sequence[Input],
    out: str | Path,
    *,
    tta: bool = False,
    thresholds: Mapping[str, float] | None = None,
    save_maps: bool = False,
    also: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    progress: Callable[[Outcome, int, int], None] | None = None,
    states: str | Path | None = None,
) -> list[Outcome]:
    """Segment files; one that fails is recorded in ``failures.csv`` and the others go on.

    Parameters
    ----------
    model : Predictor
    inputs : path, Dataset, or sequence of these
        Files, folders, globs, tables, or what :func:`biosegkit.scan` found; see :func:`biosegkit.inputs.find_jobs`.
    out : path
        Gets ``<relative path>/<stem>.<ext>`` per input, with a record ``.json`` of what it was made from, and for
        objects a table ``.csv``.
    tta, thresholds : bool, dict
        As for :func:`predict`.
    save_maps : bool
        Also write ``<stem>_<map>.<ext>`` per map.
    also : sequence of str
        Further files of each image, with measurements: ``csv``, ``parquet``, ``geojson``, ``rois``, ``coco``,
        ``dicom``, ``thumbnail``; see :data:`biosegkit.outputs.OUTPUTS`.
    resume : bool
        Keep outputs made from the same input, model and options; make the others.
    overwrite : bool
        Make all of them anew.
    options : ReadOptions, optional
        What the files do not say; stands above what a table or ``dataset.json`` says.
    progress : callable, optional
        Called with (outcome, done, all).
    states : path, optional
        A folder where what thresholds and post-processing act on is kept, beside ``out``: images that have it there,
        from the same file, model and ``tta``, are not given to the network again.

    Raises
    ------
    FileError
        If the output folder holds something already, without ``resume`` or ``overwrite``, or another process works
        in it (fault F8).
    DataError
        If there is no input, or two would write the same output; before anything runs.
    OptionError
        For a threshold that the model does not have, or an option it cannot follow.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(p.name != "lock" for p in out.iterdir())) and not (
            resume or overwrite):
        raise FileError("an output that exists", file=out, expected="a new or empty folder",
                        remedy="choose another, or use --resume or --overwrite")
    channels = len(model.plan.preprocessing.channels) if isinstance(model, Bundle | Segmenter) else 1
    _refuse_impossible(model, tta, thresholds, save_maps)
    kept = None if states is None else _states_folder(model, Path(states), out, save_maps)
    jobs = find_jobs(inputs, out, channels)
    wish = _Wish(tta, dict(thresholds or {}), save_maps, options or ReadOptions(), checked_outputs(also))
    outcomes: list[Outcome] = []
    with locked(out), nullcontext() if kept is None else locked(kept):
        for job in jobs:
            place = None if kept is None else kept / f"{job.output.relative_to(out)}.states"
            outcome = _one(model, job, wish, place, resume=resume and not overwrite)
            outcomes.append(outcome)
            _write_failures(out, outcomes)
            if progress:
                progress(outcome, len(outcomes), len(jobs))
    return outcomes


@dataclass(frozen=True)
class _Wish:
    """Options that change the result."""

    tta: bool
    thresholds: Mapping[str, float]
    save_maps: bool
    reading: ReadOptions
    also: tuple[str, ...] = ()

    def for_case(self, said: Mapping[str, Any]) -> _Wish:
        """With what a data set says about reading a case, where the caller says nothing."""
        unset = {k: v for k, v in said.items() if getattr(self.reading, k) in (None, ())}
        return replace(self, reading=replace(self.reading, **unset))

    @property
    def data(self) -> dict[str, Any]:
        """As plain data (memory limits change no result)."""
        reading = {k: v for k, v in asdict(self.reading).items() if k != "memory_budget"}
        return {"tta": self.tta, "thresholds": dict(self.thresholds), "save_maps": self.save_maps, "reading": reading,
                **({"also": list(self.also)} if self.also else {})}


def _states_folder(model: Predictor, states: Path, out: Path, save_maps: bool) -> Path:
    """Where states are kept, if there can be any."""
    if not isinstance(model, Bundle):
        raise OptionError("kept states with a model that is no bundle", remedy="leave out --states")
    if save_maps:
        raise OptionError("kept states together with maps, which need the network",
                          remedy="leave out --states or --save-maps")
    if states.resolve() == out.resolve():
        raise OptionError(f"states in {states}, the folder of the results", expected="a folder of their own",
                          remedy=f"for example --states {states / 'states'}")
    return states


def _one(model: Predictor, job: Job, wish: _Wish, states: Path | None, *, resume: bool) -> Outcome:
    """One file; whatever goes wrong is its own outcome (law 2: isolate)."""
    started, wish = time.monotonic(), wish.for_case(job.reading)
    shown = str(job.images[0]) if len(job.images) == 1 else f"{job.images[0]} …"
    try:
        made_from = _made_from(model, job, wish)
        if resume and _is_made_from(job, made_from, wish.also):
            return Outcome(shown, str(job.output), "kept", objects=_count(job.output))
        _remove(job)
        image = read(job.images[0] if len(job.images) == 1 else list(job.images), wish.reading)
        identity = {"input": made_from["input"], "reading": wish.data["reading"]}
        found, said = _segmented(model, image, wish, None if states is None else KeptStates(states, identity))
        with finish_first():
            _write(found, image, job, _Origin(model, made_from, wish))
        notes = (*_notes(image, found), *said)
    except Exception as error:  # noqa: BLE001 - one bad case must not stop the others; it is recorded
        text = str(error) if isinstance(error, BiosegError) else f"{type(error).__name__}: {error}"
        return Outcome(shown, str(job.output), "failed", text, time.monotonic() - started)
    objects = len(found.objects["id"]) if "id" in found.objects else None
    return Outcome(shown, str(job.output), "done", None, time.monotonic() - started, objects, notes)


def _segmented(model: Predictor, image: Image, wish: _Wish,
               kept: KeptStates | None) -> tuple[Prediction, tuple[str, ...]]:
    """The prediction, and what is to be said of its states."""
    if kept is None or not isinstance(model, Bundle):
        return predict(model, image, tta=wish.tta, thresholds=wish.thresholds or None, maps=wish.save_maps), ()
    found, said = kept.predict(model, image, tta=wish.tta, thresholds=wish.thresholds or None)
    return found, (said,)


def _made_from(model: Predictor, job: Job, wish: _Wish) -> dict[str, Any]:
    """Hashes of input, model and options: an output with the same is the same."""
    digest = getattr(model, "digest", None)
    options = json.dumps(wish.data, sort_keys=True, default=str)
    return {
        "input": {path.name: _file_hash(path) for path in job.images},
        "model": None if digest is None else str(digest),
        "options": hashlib.sha256(options.encode()).hexdigest(),
    }


def _file_hash(path: Path) -> str:
    """SHA-256 of a file, or over names and hashes of a folder's files."""
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _sidecar(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _table(output: Path, name: str) -> Path:
    return output.with_name(Path(name).name + ".csv")


def _is_made_from(job: Job, made_from: Mapping[str, Any], also: Sequence[str]) -> bool:
    """Whether an output is there, whole, and made from the same; a model without a digest cannot tell."""
    output = job.output
    if made_from["model"] is None or not output.exists() or not _sidecar(output).exists():
        return False
    try:
        record = read_json(_sidecar(output))
        return bool(isinstance(record, dict) and record.get("made_from") == dict(made_from)
                    and record.get("output") == _file_hash(output) and are_whole(job, also, record))
    except (FileError, OSError):
        return False


def _count(output: Path) -> int | None:
    """Objects of a kept output."""
    count = read_json(_sidecar(output)).get("objects")
    return int(count) if isinstance(count, int) else None


def _remove(job: Job) -> None:
    """Nothing from an earlier run may be taken for the new result (fault F10)."""
    for path in (_sidecar(job.output), _table(job.output, job.name), *export_paths(job), job.output):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Origin:
    """What a record says of where an output comes from."""

    model: Predictor
    made_from: Mapping[str, Any]
    wish: _Wish


def _write(found: Prediction, image: Image, job: Job, origin: _Origin) -> None:
    """Labels, table, maps and further files, and last the record that makes them valid (fault X7)."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    write(found.labels, job.output)
    if "id" in found.objects and "csv" not in origin.wish.also:
        write_bytes(_table(job.output, job.name), _csv_table(found.objects))
    tail = job.output.name[len(Path(job.name).name) :]
    for name, values in (found.maps or {}).items():
        write(Image(values, image.grid), job.output.with_name(f"{Path(job.name).name}_{name}{tail}"))
    also = export(origin.model, found, image, job, origin.wish.also)
    record: dict[str, Any] = {
        "file": job.output.name,
        "task": found.labels.task,
        "output": _file_hash(job.output),
        "made_from": dict(origin.made_from),
        "options": origin.wish.data,
        "versions": {name: metadata.version(name) for name in ("biosegkit", "torch", "numpy")},
        "objects": len(found.objects["id"]) if "id" in found.objects else None,
        "grid": found.labels.grid.to_dict(),
        "notes": list(_notes(image, found)),
        **({"also": also} if also else {}),
    }
    model = origin.model
    if isinstance(model, Bundle):
        record |= {"device": describe(model.device), "seed": model.plan.seed, "plan": model.plan.hash,
                   "thresholds": dict(model.thresholds), "postprocessing": model.postprocessing,
                   "bundle_versions": model.info.get("versions", {})}
        if model.segmenter.depth:
            record["depth"] = model.segmenter.depth
    else:
        record["model"] = dict(getattr(model, "record", {}))  # what an engine says of itself
    write_json(_sidecar(job.output), record)


def _notes(image: Image, found: Prediction) -> tuple[str, ...]:
    """Of reading and predicting, each once."""
    return tuple(dict.fromkeys((*image.notes, *found.notes)))


def _csv_table(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Columns of equal length as CSV."""
    text = stream.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True))
    return text.getvalue().encode()


def _write_failures(out: Path, outcomes: Sequence[Outcome]) -> None:
    """``failures.csv``, or none if nothing failed."""
    failed, path = [o for o in outcomes if o.error], out / "failures.csv"
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = stream.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "output", "error"])
    writer.writerows([o.input, o.output, o.error] for o in failed)
    write_bytes(path, text.getvalue().encode())
