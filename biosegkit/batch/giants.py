"""The giant images of a batch: which they are, and what is done with one before and after its blocks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biosegkit._atomic import sha256
from biosegkit._endings import ENDINGS, SLIDES
from biosegkit.bundle import Bundle
from biosegkit.engines.star_model import StarModel
from biosegkit.errors import BiosegError, DataError, OptionError
from biosegkit.exports import refused_in
from biosegkit.inputs import Job
from biosegkit.io import ReadOptions, open_pyramid
from biosegkit.io.formats import remote_url
from biosegkit.io.sniff import ending
from biosegkit.outputs import LIMITED, checked_outputs, refusals
from biosegkit.predictor import Predictor, WholePredictor
from biosegkit.records import Outcome, Wish, is_made_from, kept_outcome, origin_of, remove, shown

from .blocks import Steps, finish_image, infer_block, paint_block, prepare_image, resolve_image
from .engine import Staff
from .giant import GiantJob, has_blocks
from .sources import BundleSource
from .stars import finish_stars, infer_stars, paint_stars, prepare_stars, resolve_stars
from .tasks import Errand, opened
from .tissue import tissue_of

__all__ = ["GIANT", "Begun", "Stages", "begin", "checked_tissue", "finish", "giant_job", "is_giant", "refuse_hopeless",
           "stages_of"]

#: Voxels of an ordinary image, at most.
GIANT = 64_000_000
#: Bytes of a file below which an image is not asked for its size: looking into thousands takes minutes.
_SMALL = 1 << 20
#: Memory of a worker that nothing is known of, and what more of would gain nothing, in bytes.
_UNKNOWN, _ENOUGH = 2 << 30, 4 << 30
#: Workers of a scheduler, of which nobody knows how many come.
_CREW = 8


@dataclass(frozen=True)
class Stages:
    """The steps of an image in blocks, each a function of a job; see :mod:`biosegkit.batch.blocks`."""

    prepare: Callable[[GiantJob], Steps]
    infer: Callable[[GiantJob, int], int]
    resolve: Callable[[GiantJob], dict[str, Any]]
    paint: Callable[[GiantJob, int], None]
    finish: Callable[..., dict[str, Any]]


def stages_of(model: Predictor) -> Stages | None:
    """How a model does images in blocks; None for one that takes images whole."""
    if has_blocks(model):
        return Stages(prepare_image, infer_block, resolve_image, paint_block, finish_image)
    if isinstance(model, StarModel):
        return Stages(prepare_stars, infer_stars, resolve_stars, paint_stars, finish_stars)
    return None


def is_giant(path: Path, reading: ReadOptions, model: Predictor | None = None) -> bool:
    """Whether an image is segmented in blocks: slides, larger ones than :data:`GIANT`, volumes larger than memory.

    So is one that ``model``, which has blocks, could not hold whole within the memory of ``reading``. An image that
    cannot be looked at is none: its error comes when it is its turn.

    Examples
    --------
    >>> is_giant(Path("slide.svs"), ReadOptions()), is_giant(Path("photo.png"), ReadOptions())
    (True, False)
    """
    if ending(path) in SLIDES:
        return True
    kind = "zarr" if remote_url(path) else ENDINGS.get(ending(path), "dicom" if path.is_dir() else "")
    try:
        if kind not in ("tiff", "zarr", "nifti", "dicom") or (path.is_file() and path.stat().st_size < _SMALL):
            return False
        pyramid = open_pyramid(path, reading)
    except (BiosegError, OSError):
        return False
    if isinstance(model, WholePredictor) and model.memory(pyramid.level(0)) > reading.budget:
        return True
    voxels, channels = pyramid.grids[0].voxels, pyramid.arrays[0].shape[0]
    if kind == "nifti" or (kind == "dicom" and pyramid.grids[0].ndim == 3):  # volumes, wanted whole if they can be
        return voxels * channels * pyramid.dtype.itemsize > reading.budget
    return voxels > GIANT or (kind in ("tiff", "dicom") and len(pyramid.grids) > 1)


def checked_tissue(wish: Wish, giants: int) -> Wish:
    """The wish, with a mask that workers in another folder find too.

    Parameters
    ----------
    wish : Wish
    giants : int
        How many of the images are segmented in blocks.

    Raises
    ------
    OptionError
        If the mask is not there, or would be of no use; before anything runs.
    """
    if wish.tissue in ("auto", "off"):
        return wish
    if not Path(wish.tissue).is_file():
        raise OptionError(f"--tissue {wish.tissue}", expected="auto, off, or a file", remedy="check the path")
    if not giants:
        raise OptionError(f"--tissue {wish.tissue} without a slide or another image that is done in blocks",
                          expected="at least one", remedy="leave it out: ordinary images are looked at everywhere")
    return replace(wish, tissue=str(Path(wish.tissue).absolute()))


def refuse_hopeless(model: Predictor, wish: Wish, jobs: Sequence[Job]) -> None:
    """Refuse a format that no image of a batch can have, by size or pixel size; before anything runs.

    Where some can, the others fail by it alone, and have all other files. Of ordinary images nothing is foreseen.

    Raises
    ------
    OptionError
        With the reason of the first image.
    """
    for kind in wish.also if all(job.giant for job in jobs) else ():
        found = [_foreseen(model, wish, job, kind) for job in jobs] if kind in LIMITED else [None]
        if all(found) and (why := found[0]) is not None:
            raise OptionError(f"--also {kind}, which none of the images can have: {why.found} ({why.file})",
                              expected=why.expected, remedy=f"leave {kind} out, or {why.remedy}")


def _foreseen(model: Predictor, wish: Wish, job: Job, kind: str) -> DataError | None:
    """Why an image cannot be had in a format, whatever is found in it; None where nothing is known."""
    try:
        pyramid = open_pyramid(job.images, wish.for_case(job.reading).reading)
        image = BundleSource(model).image(pyramid) if isinstance(model, Bundle) else pyramid.level(0)
    except (BiosegError, OSError):  # said when it is its turn
        return None
    return refusals(image.grid, 0, [kind], shown(job)).get(kind)


def sharers(workers: int, images: int) -> int:
    """How many workers to cut each image for: a cut costs tiles twice, and gains less the more images there are.

    Examples
    --------
    >>> [sharers(2, images) for images in (1, 2, 3, 4, 20)], sharers(8, 5)
    ([2, 2, 2, 1, 1], 4)
    """
    return min(workers, -(-2 * workers // images))


def giant_job(errand: Errand, job: Job, staff: Staff, images: int, states: Path | None = None) -> GiantJob:
    """A job of a batch as what the functions of :mod:`biosegkit.batch.blocks` take; paths are absolute already."""
    opening, wish = errand.opening, errand.wish
    share = staff.share or _UNKNOWN
    return GiantJob(
        tuple(map(str, job.images)), str(job.output), opening.model, opening.device, opening.options, opening.depth,
        opening.digest, wish.tta, tuple(sorted(wish.thresholds.items())), memory=staff.memory or min(share, _ENOUGH),
        workers=sharers(staff.workers or _CREW, images), maps=wish.save_maps,
        states="" if states is None else str(states))


@dataclass(frozen=True)
class Begun:
    """An image that is to be segmented.

    Parameters
    ----------
    task : GiantJob
        With what identifies the image.
    origin : dict
        What the output is made from.
    kinds : tuple of str
        What is written beside the labels.
    notes : tuple of str
    """

    task: GiantJob
    origin: Mapping[str, Any]
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _kinds(model: Predictor, wish: Wish) -> tuple[str, ...]:
    """What is written beside the labels: measurements, polygons and a picture always."""
    objects = not isinstance(model, Bundle) or model.plan.labels.task == "instance"
    return checked_outputs([*wish.also, "geojson", "thumbnail", *(["csv"] if objects else [])])


def begin(errand: Errand, job: Job, task: GiantJob) -> Outcome | Begun:
    """See whether the output is there already; what is there of another is removed (fault F10)."""
    model: Predictor = opened(errand.opening)
    kinds = _kinds(model, errand.wish)
    wish = errand.wish.for_case(job.reading)
    origin = origin_of(model, job, wish)
    if wish.tissue not in ("auto", "off"):
        origin["tissue"] = sha256(wish.tissue)
    if errand.resume and is_made_from(job, origin, kinds):
        shutil.rmtree(task.folder, ignore_errors=True)
        return kept_outcome(shown(job), job.output, origin=origin)
    errand.claim.check()
    if not errand.resume:
        shutil.rmtree(task.folder, ignore_errors=True)
    elif job.output.exists():  # what was painted is in there, and goes with it
        shutil.rmtree(task.folder / "painted", ignore_errors=True)
    remove(job)
    identity = hashlib.sha256(json.dumps(origin["input"], sort_keys=True).encode()).hexdigest()
    tissue = tissue_of(wish.tissue, open_pyramid(job.images, wish.reading))
    mask = ""
    if tissue.mask is not None:  # named by its content, which states depend on
        digest = hashlib.sha256(tissue.mask.tobytes()).hexdigest()[:16]
        mask = tissue.write(task.folder / f"tissue-{digest}.npy")
    return Begun(replace(task, identity=identity, reading=wish.reading, tissue=mask), origin, kinds, (tissue.note,))


def finish(errand: Errand, job: Job, begun: Begun, last: Callable[..., dict[str, Any]]) -> Outcome:
    """Put the output where it belongs, with everything beside it; ``last`` is what the stages end with."""
    errand.claim.check()
    record = last(begun.task, begun.origin, begun.kinds, begun.notes)
    refused = refused_in(record)
    return Outcome(shown(job), str(job.output), "failed" if refused else "done", refused, objects=record["objects"],
                   notes=tuple(record["notes"]), origin=begun.origin)
