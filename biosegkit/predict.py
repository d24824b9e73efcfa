"""From images to labels: one image, or files to files."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ._atomic import write_bytes, write_json
from .bundle import Bundle
from .device import describe
from .errors import BiosegError, Cancelled, DataError, FileError, OptionError
from .exports import export, refused_in
from .image import Image
from .inputs import Input, Job, find_jobs
from .io import ReadOptions, read, write
from .kept_states import KeptStates
from .methods.protocol import checked_thresholds
from .outputs import checked_outputs
from .plan.units import memory_text
from .predictor import MapPredictor, Prediction, Predictor, WholePredictor
from .records import (
    Outcome,
    Wish,
    csv_table,
    file_hash,
    is_made_from,
    kept_outcome,
    origin_of,
    record_path,
    remove,
    shown,
    table_path,
    write_failures,
)
from .run_folder import locked
from .segmenter import Segmenter, method_of
from .signals import finish_first

__all__ = ["Outcome", "Todo", "Wish", "files_to_do", "predict", "predict_file", "predict_files", "predict_jobs"]


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

    Examples
    --------
    >>> import numpy as np
    >>> from biosegkit.engines import load_model
    >>> from biosegkit.grid import Grid
    >>> values = np.zeros((1, 16, 16), np.float32)
    >>> values[0, 2:6, 2:6] = values[0, 9:14, 9:14] = 1
    >>> found = predict(load_model("otsu", options={"sigma": 0}), Image(values, Grid.regular((16, 16))))
    >>> found.labels.count, found.objects["area"].tolist()
    (2, [16, 25])
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
        Files, folders, globs, tables, URLs of OME-Zarr, or what :func:`biosegkit.scan` found; see
        :func:`biosegkit.inputs.find_jobs`. A file with several positions or time points gives a result of each.
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

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from biosegkit.engines import load_model
    >>> from biosegkit.grid import Grid
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image = Image(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), Grid.regular((8, 8), 0.5, "um"))
    ...     write(image, folder + "/a.tif")
    ...     done = predict_files(load_model("otsu"), folder + "/a.tif", folder + "/out")
    ...     [(Path(one.output).name, one.error) for one in done]
    [('a.tif', None)]
    """
    out = Path(out)
    wish = Wish(tta, dict(thresholds or {}), save_maps, options or ReadOptions(), checked_outputs(also))
    todo = files_to_do(model, inputs, out, wish, states, anew=not (resume or overwrite))
    return predict_jobs(model, todo, wish, resume=resume and not overwrite, progress=progress)


@dataclass(frozen=True)
class Todo:
    """What there is to predict.

    Parameters
    ----------
    out : Path
        Folder of the outputs.
    jobs : list of Job
    kept : Path, optional
        Folder of kept states.
    """

    out: Path
    jobs: list[Job]
    kept: Path | None = None

    def states_of(self, job: Job) -> Path | None:
        """Where the states of one image are kept."""
        return None if self.kept is None else self.kept / f"{job.output.relative_to(self.out)}.states"

    @contextmanager
    def held(self) -> Iterator[str]:
        """Both folders held by this process (:func:`biosegkit.run_folder.locked`); what the lock of outputs says."""
        with locked(self.out) as holder, nullcontext() if self.kept is None else locked(self.kept):
            yield holder


def predict_jobs(model: Predictor, todo: Todo, wish: Wish, *, resume: bool = False,
                 progress: Callable[[Outcome, int, int], None] | None = None) -> list[Outcome]:
    """Segment one file after the other in this process; see :func:`predict_files`."""
    outcomes: list[Outcome] = []
    with todo.held():
        for job in todo.jobs:
            outcomes.append(predict_file(model, job, wish, todo.states_of(job), resume=resume))
            write_failures(todo.out, outcomes)
            if progress:
                progress(outcomes[-1], len(outcomes), len(todo.jobs))
    return outcomes


def files_to_do(model: Predictor, inputs: Input | Sequence[Input], out: Path, wish: Wish,
                states: str | Path | None = None, *, anew: bool = True,
                is_giant: Callable[[Path, Mapping[str, Any]], bool] | None = None) -> Todo:
    """What there is to predict; all that can be refused is refused before it begins.

    ``anew`` says that the output folder may hold nothing yet, ``is_giant`` which images are segmented in blocks.
    Errors are those of :func:`predict_files`.
    """
    if anew and out.exists() and (not out.is_dir() or any(p.name != "lock" for p in out.iterdir())):
        raise FileError("an output that exists", file=out, expected="a new or empty folder",
                        remedy="choose another, or use --resume or --overwrite")
    _refuse_impossible(model, wish.tta, wish.thresholds, wish.save_maps)
    checked_outputs(wish.also)
    kept = None if states is None else _states_folder(model, Path(states), out, wish.save_maps)
    return Todo(out, find_jobs(inputs, out, _channels(model), is_giant, wish.reading), kept)


def _channels(model: Predictor) -> int:
    """How many channels the model takes."""
    return len(model.plan.preprocessing.channels) if isinstance(model, Bundle | Segmenter) else 1


def _states_folder(model: Predictor, states: Path, out: Path, save_maps: bool) -> Path:
    """Where states are kept, if there can be any."""
    if not isinstance(model, Bundle):
        raise OptionError("kept states with a model that is no bundle", remedy="leave out --states")
    return checked_states(states, out, save_maps)


def checked_states(states: str | Path, out: Path, save_maps: bool) -> Path:
    """The folder of kept states, if it is not that of the results and no maps are wanted.

    Raises
    ------
    OptionError
        Otherwise.
    """
    if save_maps:
        raise OptionError("kept states together with maps, which need the network",
                          remedy="leave out --states or --save-maps")
    states = Path(states)
    if states.resolve() == out.resolve():
        raise OptionError(f"states in {states}, the folder of the results", expected="a folder of their own",
                          remedy=f"for example --states {states / 'states'}")
    return states


def predict_file(model: Predictor, job: Job, wish: Wish, states: Path | None = None, *, resume: bool = False,
                 check: Callable[[], object] | None = None) -> Outcome:
    """Segment one file; whatever goes wrong is its own outcome (law 2: isolate).

    Parameters
    ----------
    model : Predictor
    job : Job
        One of :func:`biosegkit.inputs.find_jobs`.
    wish : Wish
    states : Path, optional
        Where the states of this image are kept.
    resume : bool
        Keep an output made from the same input, model and options.
    check : callable, optional
        Called before anything is removed or written: an error of it is that of the image, and nothing is touched.

    Raises
    ------
    Cancelled
        If who watches the progress cancels it (:func:`biosegkit.progress.watched`); no output is left.
    """
    started, wish = time.monotonic(), wish.for_case(job.reading)
    origin: dict[str, Any] = {}
    try:
        if check:
            check()
        origin = origin_of(model, job, wish)
        if resume and is_made_from(job, origin, wish.also):
            return kept_outcome(shown(job), job.output, origin=origin, seconds=time.monotonic() - started)
        remove(job)
        image = read(job.images[0] if len(job.images) == 1 else list(job.images), wish.reading)
        _refuse_too_large(model, image, wish.reading.budget)
        identity = {"input": origin["input"], "reading": wish.data["reading"]}
        found, said = _segmented(model, image, wish, None if states is None else KeptStates(states, identity))
        if check:
            check()
        with finish_first():
            refused = _write(found, image, job, _Origin(model, origin, wish))
        notes = (*_notes(image, found, wish), *said)
    except Cancelled:
        raise  # a wish of the caller's, and no fault of the image
    except Exception as error:  # noqa: BLE001 - one bad case must not stop the others; it is recorded
        text = str(error) if isinstance(error, BiosegError) else f"{type(error).__name__}: {error}"
        return Outcome(shown(job), str(job.output), "failed", text, time.monotonic() - started, origin=origin,
                       trace=traceback.format_exc())
    objects = len(found.objects["id"]) if "id" in found.objects else None
    return Outcome(shown(job), str(job.output), "failed" if refused else "done", refused, time.monotonic() - started,
                   objects, notes, origin)


def _refuse_too_large(model: Predictor, image: Image, budget: int) -> None:
    """A segmenter that holds images whole is not given one that it could not hold (law 6)."""
    needed = model.memory(image) if isinstance(model, WholePredictor) else 0
    if needed > budget:
        raise DataError(f"{' × '.join(map(str, image.grid.shape))} voxels, for which this model needs about "
                        f"{memory_text(needed)}", file=image.source or None,
                        expected=f"at most {memory_text(budget)}, the memory budget",
                        remedy="give more --memory, cut the image, or use a model of biosegkit, StarDist or Cellpose, "
                        "which do it in blocks, with a TIFF or OME-Zarr")


def _segmented(model: Predictor, image: Image, wish: Wish,
               kept: KeptStates | None) -> tuple[Prediction, tuple[str, ...]]:
    """The prediction, and what is to be said of its states."""
    if kept is None or not isinstance(model, Bundle):
        return predict(model, image, tta=wish.tta, thresholds=wish.thresholds or None, maps=wish.save_maps), ()
    found, said = kept.predict(model, image, tta=wish.tta, thresholds=wish.thresholds or None)
    return found, (said,)


@dataclass(frozen=True)
class _Origin:
    """What a record says of where an output comes from."""

    model: Predictor
    made_from: Mapping[str, Any]
    wish: Wish


def _write(found: Prediction, image: Image, job: Job, origin: _Origin) -> str | None:
    """Labels, table, maps and further files, and last the record that makes them valid (fault X7); what cannot be."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    write(found.labels, job.output)
    if "id" in found.objects and "csv" not in origin.wish.also:
        write_bytes(table_path(job.output, job.name), csv_table(found.objects))
    tail = job.output.name[len(Path(job.name).name) :]
    maps = {f"{Path(job.name).name}_{name}{tail}": values for name, values in (found.maps or {}).items()}
    for name, values in maps.items():
        write(Image(values, image.grid), job.output.with_name(name))
    also = export(origin.model, found, image, job, origin.wish.also)
    record: dict[str, Any] = {
        "file": job.output.name,
        "task": found.labels.task,
        "output": file_hash(job.output),
        "made_from": dict(origin.made_from),
        "options": origin.wish.data,
        "versions": {name: metadata.version(name) for name in ("biosegkit", "torch", "numpy")},
        "objects": len(found.objects["id"]) if "id" in found.objects else None,
        "grid": found.labels.grid.to_dict(),
        "notes": list(_notes(image, found, origin.wish)),
        **also,
        **({"maps": list(maps)} if maps else {}),
    }
    model = origin.model
    if isinstance(model, Bundle):
        record |= {"device": describe(model.device), "seed": model.plan.seed, "plan": model.plan.hash,
                   "thresholds": {**model.thresholds, **origin.wish.thresholds},
                   "postprocessing": model.postprocessing, "bundle_versions": model.info.get("versions", {})}
        if model.segmenter.depth:
            record["depth"] = model.segmenter.depth
    else:
        record["model"] = dict(getattr(model, "record", {}))  # what an engine says of itself
    write_json(record_path(job.output), record)
    return refused_in(record)


def _notes(image: Image, found: Prediction, wish: Wish) -> tuple[str, ...]:
    """Of reading and predicting, each once."""
    masked = [] if wish.tissue in ("auto", "off") else ["looked at everywhere: --tissue MASK is for images in blocks"]
    return tuple(dict.fromkeys((*image.notes, *found.notes, *masked)))
