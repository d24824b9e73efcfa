"""One giant image on its way: what is to be done, and everything a worker opens for it, by paths alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import load_npy, read_json, sha256
from biosegkit.bundle import Bundle
from biosegkit.engines.cellpose_model import CellposeModel
from biosegkit.engines.planes import PlaneNet
from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.image import Image
from biosegkit.io import ReadOptions, open_pyramid
from biosegkit.methods import Block, Method
from biosegkit.methods.protocol import ArrayDict
from biosegkit.plan.schema import LabelTable
from biosegkit.predictor import Predictor
from biosegkit.prepared import Prepared
from biosegkit.tidy import Frame
from biosegkit.views import viewed

from .layout import Layout
from .sources import BundleSource, FlowSource, Source
from .steps import work_folder
from .tasks import Opening, opened

__all__ = ["FACTS", "GiantJob", "Work", "clear", "facts_of_job", "has_blocks", "identity_of", "identity_of_image",
           "is_prepared", "opened_image", "opened_model", "source_of", "stamp_of"]

#: What was measured and planned.
FACTS = "image.json"
#: Blocks of another number are of another way to compute them: 3 since tiles lie evenly.
_SCHEMA = 3


@dataclass(frozen=True)
class GiantJob:
    """What is to be done with one image; it travels between processes.

    Parameters
    ----------
    images : tuple of str
        One file, or one per channel.
    output : str
        ``NAME.ome.zarr``; a table ``NAME.csv`` and a record ``NAME.ome.zarr.json`` come beside it.
    model : str
        A bundle; see :func:`biosegkit.engines.load_model`, also for ``options`` and ``depth``.
    device, options, depth, digest
        Of the model.
    tta : bool
    thresholds : tuple of (str, float)
        Override those of the model.
    reading : ReadOptions
    memory : int
        Bytes a worker may use.
    workers : int
        That share the groups of the image.
    identity : str
        Of the image, such as a hash: what was computed from another one is not used.
    tissue : str
        A file ``.npy`` with a mask of any resolution over the whole image: tiles that do not reach it are not looked
        at. Empty: all are.
    maps : bool
        Whether the network's maps are written beside the labels.
    work : str
        Folder of what is kept until the output is whole, and of nothing else, since it is emptied; by default beside
        the output.
    states : str
        Folder of what thresholds act on, kept for later jobs, and of nothing else; by default it goes with the work.
    """

    images: tuple[str, ...]
    output: str
    model: str
    device: str = "auto"
    options: tuple[tuple[str, Any], ...] = ()
    depth: str | None = None
    digest: str | None = None
    tta: bool = False
    thresholds: tuple[tuple[str, float], ...] = ()
    reading: ReadOptions = field(default_factory=ReadOptions)
    memory: int = 2 << 30
    workers: int = 1
    identity: str = ""
    tissue: str = ""
    maps: bool = False
    work: str = ""
    states: str = ""

    @property
    def folder(self) -> Path:
        """Where work is kept."""
        return Path(self.work) if self.work else work_folder(self.output)

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, for the record; memory limits change no result."""
        reading = {k: v for k, v in asdict(self.reading).items() if k != "memory_budget" and v not in (None, ())}
        return {"tta": self.tta, "thresholds": dict(self.thresholds), "tissue": Path(self.tissue).stem,
                **({"reading": reading} if reading else {}), **({"save_maps": True} if self.maps else {})}

    @property
    def kept(self) -> Path:
        """Where states are, and what they depend on."""
        return Path(self.states) if self.states else self.folder


def opened_model(model: str, device: str, options: tuple[tuple[str, Any], ...], depth: str | None,
                 digest: str | None = None) -> Bundle | CellposeModel:
    """The model, loaded once per process.

    Raises
    ------
    OptionError
        For a model that has no maps that blocks could be decoded from.
    """
    found = opened(Opening(model, device, options, depth, digest))
    if not has_blocks(found):
        raise OptionError(f"model {model} for an image in blocks", expected="a model trained with biosegkit, or a "
                          "Cellpose or StarDist model", remedy="cut the image, or train a model")
    return found


def has_blocks(model: Predictor) -> TypeGuard[Bundle | CellposeModel]:
    """Whether a model has maps that are the same whatever part of an image is computed."""
    return isinstance(model, Bundle) or (isinstance(model, CellposeModel) and isinstance(model.run, PlaneNet))


def source_of(job: GiantJob) -> Source:
    """The model of a job, as blocks need it."""
    model = opened_model(job.model, job.device, job.options, job.depth, job.digest)
    return BundleSource(model) if isinstance(model, Bundle) else FlowSource(model)


def opened_image(job: GiantJob, source: Source) -> Image:
    """The image on the grid that is segmented, read when it is sliced."""
    return source.image(open_pyramid(job.images, job.reading))


@dataclass(frozen=True, eq=False)
class Work:
    """A job with everything opened: model, image, and what was measured and planned.

    Parameters
    ----------
    job : GiantJob
    source : Source
        The model.
    image : Image
    facts : dict
        Of ``image.json``.
    """

    job: GiantJob
    source: Source
    image: Image
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, job: GiantJob) -> Work:
        """Open what :func:`biosegkit.batch.blocks.prepare_image` left.

        Raises
        ------
        FileError
            If the image was not prepared, or another was.
        """
        return _opened(job, stamp_of(job))

    @property
    def labels(self) -> LabelTable:
        """What the numbers mean."""
        return self.source.labels

    @cached_property
    def method(self) -> Method:
        """Decodes."""
        return self.source.method

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """All of them."""
        return self.source.thresholds(self.image, dict(self.job.thresholds))

    @cached_property
    def prepared(self) -> Prepared:
        """The image as the network sees it."""
        mask = load_npy(self.job.kept / "mask.npy", mmap=True) if self.source.masked else None
        return self.source.again(self.image, self.facts["prepared"], mask)

    @cached_property
    def layout(self) -> Layout:
        """How it is cut."""
        return Layout.from_dict(self.facts["layout"])

    @property
    def is_instance(self) -> bool:
        """Whether objects are looked for."""
        return self.labels.task == "instance"

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks, in raster order."""
        return self.layout.all_blocks(self.method.halo, self.source.spacing(self.image, self.prepared))

    @cached_property
    def tissue(self) -> npt.NDArray[np.bool_] | None:
        """The mask, turned as the image is."""
        if not self.job.tissue:
            return None
        mask = load_npy(self.job.tissue)
        if mask.ndim != self.image.grid.ndim:
            raise DataError(f"a mask of {mask.ndim} axes", file=self.job.tissue, expected=f"{self.image.grid.ndim}")
        turned: npt.NDArray[np.bool_] = viewed(mask[None] > 0, self.prepared.turn)[0]
        return turned

    @cached_property
    def frame(self) -> Frame:
        """How the cropped array lies in the image, for post-processing."""
        full = self.image.grid.turned(self.prepared.turn).shape
        return Frame.of(self.prepared.window, full, self.source.ndim(self.image))

    def shows_tissue(self, start: Sequence[int], size: Sequence[int]) -> bool:
        """Whether a box of the cropped array reaches the mask."""
        if self.tissue is None:
            return True
        box = []
        full = self.image.grid.turned(self.prepared.turn).shape
        for s, n, w, whole, cells in zip(start, size, self.prepared.window, full, self.tissue.shape, strict=True):
            low, high = w.start + s, min(w.start + s + n, whole)
            box.append(slice(low * cells // whole, -(-high * cells // whole)))
        return bool(self.tissue[tuple(box)].any())

    @cached_property
    def full(self) -> list[bool]:
        """Which blocks have anything in them; the others are background and cost nothing."""
        if self.tissue is None:
            return [True] * len(self.blocks)
        return [self.source.reached(self.image, self.prepared, block, self.shows_tissue) for block in self.blocks]

    def parts(self, numbers: Sequence[int]) -> Iterator[tuple[ArrayDict, Block]]:
        """Maps of some blocks, which fill a box."""
        shows = None if self.tissue is None else self.shows_tissue
        return self.source.parts(self.image, self.prepared, [self.blocks[k] for k in numbers], tta=self.job.tta,
                                 shows=shows)

    def state(self, number: int) -> Path:
        """The file of a block's state."""
        return self.job.kept / "states" / f"{number}.safetensors"

    def seen(self, number: int) -> Block:
        """The block as the method sees it: a plane of a stack has two axes."""
        b = self.blocks[number]
        if not self.layout.planar:
            return b
        return Block(b.start[1:], b.shape[1:], b.full_shape[1:], b.before[1:], b.after[1:], b.spacing[1:])


@lru_cache(maxsize=2)
def _opened(job: GiantJob, stamp: int) -> Work:
    """Opened once per process."""
    source = source_of(job)
    return Work(job, source, opened_image(job, source), facts_of_job(job, identity_of(job, source)))


def identity_of(job: GiantJob, source: Source) -> dict[str, Any]:
    """What states depend on."""
    return {**identity_of_image(job), "model": source.digest, "tta": job.tta}


def identity_of_image(job: GiantJob) -> dict[str, Any]:
    """The image, how it is read, and where it is looked at."""
    reading = {k: v for k, v in asdict(job.reading).items() if k != "memory_budget"}
    return {"schema": _SCHEMA, "biosegkit": metadata.version("biosegkit"), "image": job.identity,
            "reading": {k: list(v) if isinstance(v, tuple) else v for k, v in reading.items()},
            "tissue": sha256(job.tissue) if job.tissue else ""}


def is_prepared(job: GiantJob, identity: Mapping[str, Any]) -> bool:
    """Whether what is kept is of the same image and model; what cannot be read is not."""
    try:
        return bool(read_json(job.kept / FACTS)["identity"] == identity)
    except (FileError, KeyError, TypeError):
        return False


def facts_of_job(job: GiantJob, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured and planned.

    Raises
    ------
    FileError
        If it was not, or of another image or model.
    """
    facts = read_json(job.kept / FACTS)
    if facts.get("identity") != identity:
        raise FileError("the work of another image, model or way to read", file=job.kept, expected="that of this job",
                        remedy="prepare the image again")
    return dict(facts)


def stamp_of(job: GiantJob) -> int:
    """Another number once an image was prepared again."""
    path = job.kept / FACTS
    return path.stat().st_mtime_ns if path.exists() else 0


def clear(job: GiantJob) -> None:
    """Remove what was made for another image or model."""
    for folder in {job.folder, job.kept}:
        for old in folder.glob("*"):
            if old != Path(job.tissue):
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
