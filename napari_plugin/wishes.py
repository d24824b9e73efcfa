"""What is to be segmented, whether it can be, and what comes of it: plain data, no Qt; done in threads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biosegkit._words import counted
from biosegkit.errors import BiosegError, DataError

from .contrasts import EMPTY, coloured, contrasts
from .films import LayerData, in_time
from .giants import Giant, giant_of, segmented_giant
from .layers import Look, home_grid, image_of, look_at, stand_in
from .options import Options
from .region import Region
from .remedies import in_viewer

if TYPE_CHECKING:
    from .shared import Hub, Result

__all__ = ["Answer", "Outcome", "Wish", "answered", "looked_through", "outcome_of", "ran"]


@dataclass(frozen=True, eq=False)
class Wish:
    """What is to be segmented: plain data and snapshots of layers, for a thread.

    Parameters
    ----------
    model : str
        MODEL, as on the command line.
    layers : tuple
        Snapshots: one with all channels, or one per channel.
    kind : str
        One of :data:`biosegkit_napari.region.REGIONS`.
    region : Region
    axes : str, optional
        What the layer's axes are, where it does not say.
    frame : int
        Time point.
    tta : bool
        Average mirrored copies.
    sight : int
        Of a layer with several resolutions the one in sight, for a model that knows no pixel size; 0 is the finest.
    out : str
        The folder for results, where the image is segmented in blocks; one beside its file by default.
    options : tuple of (str, str)
        Of the model.
    """

    model: str
    layers: tuple[Any, ...]
    kind: str
    region: Region
    axes: str | None = None
    frame: int = 0
    tta: bool = False
    sight: int = 0
    out: str = ""
    options: Options = ()


@dataclass(frozen=True)
class Answer:
    """Whether a wish can be run: what it takes, or what is in the way; and what of the image the model will see.

    ``giant`` says how it is segmented in blocks, if it is; ``grey``, that its three channels must be equal.
    """

    ready: bool
    text: str
    level: int = 0
    window: tuple[slice, ...] = ()
    giant: Giant | None = None
    grey: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a wish: a layer, what is to be said of it, and what it can be decoded from again, if it can.

    The layer is data, settings and kind, as napari's readers return them.
    """

    layer: LayerData
    said: str
    seconds: float
    notes: tuple[str, ...] = ()
    result: Result | None = field(default=None, repr=False)


def answered(wish: Wish, model: Any) -> Answer:
    """Whether a model fits a wish, without reading a voxel.

    An error is an answer, too: its message is shown beside the choice that it is about.
    """
    from biosegkit.estimate import estimate, level_for

    plan = getattr(model, "plan", None)
    try:
        look = look_at(wish.layers[0], wish.axes)
        spacings = [look.grid.resized(shape).spacing for shape in look.levels]
        level = level_for(plan, spacings, look.grid.unit, wish.sight)
        window = _window(wish, look.grid.ndim, 2 if plan is None else plan.configuration.ndim)
        at_level = replace(look, grid=look.grid.resized(look.levels[level]))
        scaled = _scaled(window, look.levels[0], look.levels[level])
        channels = look.channels if len(wish.layers) == 1 else len(wish.layers)
        image = stand_in(at_level, scaled, channels)
        found = estimate(model, image)
        giant = _in_blocks(wish, look, model, image, found.memory)
    except BiosegError as error:
        unit = "" if plan is None else plan.preprocessing.unit
        return Answer(False, in_viewer(error, wish.layers[0], unit=unit, axes=wish.axes))
    size = " × ".join(map(str, image.grid.shape))
    unit = "" if image.grid.unit == "px" else " at " + " × ".join(f"{s:.3g}" for s in image.grid.spacing) + (
        f" {image.grid.unit}")
    which = _which(level, look, level_for(plan, spacings, look.grid.unit, -1) < 0)
    taken = found if giant is None else giant.about(found.tiles)
    grey = channels == 3 and plan is not None and len(plan.preprocessing.channels) == 1  # of zeros they are equal
    return Answer(True, f"{size} voxels{unit}{which}. {taken}".strip(), level, scaled, giant, grey)


def looked_through(wish: Wish, answer: Answer) -> Answer:
    """The answer, unless what is to be segmented has no finite number, or colours that the model does not know.

    Of one value alone it says so. Done in a thread.
    """
    if not answer.ready:
        return answer
    if answer.grey and coloured(wish.layers, wish.axes, wish.frame, answer.level, answer.window):
        return replace(answer, ready=False, text=str(DataError(
            "3 channels that differ", file=wish.layers[0].name, expected="1, as the model was trained on",
            remedy="choose a model of such images, or one of the channels; a layer of colours is split by a right "
            "click on it, Split RGB")))
    found = [contrast for layer in wish.layers
             for contrast in contrasts(layer, wish.axes, wish.frame, answer.level, answer.window)]
    if not any(found):
        return answer
    if all(one == EMPTY for one in found):
        return replace(answer, ready=False, text=str(DataError(
            f"{EMPTY} in this part", file=wish.layers[0].name, expected="intensities",
            remedy="choose another part, or check how the image was exported")))
    which = "" if len(found) == 1 else f" in channel {', '.join(str(k) for k, one in enumerate(found) if one)}"
    what = " and ".join(dict.fromkeys(one for one in found if one))
    return replace(answer, text=f"{answer.text}\nThere is {what}{which}: nothing can be told apart there. Is this the "
                   "image that is meant?")


def ran(wish: Wish, hub: Hub) -> Outcome:
    """Check once more, then segment; in a thread."""
    answer = looked_through(wish, answered(wish, hub.loaded(wish.model, wish.options)))
    if not answer.ready:
        raise DataError(answer.text)
    return _segmented(wish, answer, hub)


def outcome_of(result: Result, name: str, begun: float, film: tuple[Any, Look, int] | None = None) -> Outcome:
    """Decode, and prepare the layer: in a thread.

    ``film`` is the layer whose time point this is, what it says of itself, and that time point.
    """
    from biosegkit.viewing import label_layer

    prediction = result.live.decode()
    data, settings, kind = label_layer(prediction.labels, name, prediction.objects)
    if film is not None:
        data, settings, kind = in_time((data, settings, kind), *film)
    settings["metadata"]["model"] = result.model_name
    said = (counted(len(prediction.objects["id"]), "object") if "id" in prediction.objects else
            counted(prediction.labels.count, "class"))
    return Outcome((data, settings, kind), said, time.monotonic() - begun, prediction.notes, result)


def _segmented(wish: Wish, answer: Answer, hub: Hub) -> Outcome:
    """Read the region, run the model, decode; or do all of the file in blocks."""
    from biosegkit.live import live

    from .shared import Result

    look = look_at(wish.layers[0], wish.axes)
    film = (wish.layers[0], look, wish.frame) if look.frames > 1 else None
    moment = "" if film is None else f" t={wish.frame}"
    begun, name = time.monotonic(), f"{wish.layers[0].name}{moment} {Path(wish.model).stem}"
    if answer.giant is not None:
        layer, said, notes = segmented_giant(answer.giant, name)
        return Outcome(layer, said, time.monotonic() - begun, notes)
    model = hub.loaded(wish.model, wish.options)
    image = image_of(wish.layers, axes=wish.axes, frame=wish.frame, level=answer.level, window=answer.window)
    made = outcome_of(Result(live(model, image, tta=wish.tta), model, wish.model), name, begun, film)
    made.layer[1]["metadata"]["image"] = home_grid(wish.layers[0], wish.axes).to_dict()
    return made


def _in_blocks(wish: Wish, look: Look, model: Any, image: Any, memory: int | None) -> Giant | None:
    """How an image is segmented in blocks; None for one that is held whole.

    Raises
    ------
    DataError
        For what can be held no more than be segmented in blocks; before it is read.
    """
    import psutil

    from biosegkit.batch import giants
    from biosegkit.plan.units import memory_text

    needed = image.array.size * image.array.dtype.itemsize + (memory or 0)
    there = 0.8 * psutil.virtual_memory().available
    plane = image.grid.ndim == 2 and image.grid.voxels > giants.GIANT
    if needed <= there and not plane:
        return None
    remedy = "predict the file with Batch"
    if _is_whole(wish, look):
        try:
            return giant_of(wish, look, model)
        except BiosegError as error:
            if needed <= there:
                return None
            remedy = f"{error.remedy} ({error.found})"
    raise DataError(f"{memory_text(needed)} needed", file=image.source, expected=f"{memory_text(there)} at most",
                    remedy=f"{_SMALLER[wish.kind]}, or {remedy}")


#: What to do where a part of this kind is too large.
_SMALLER = {"whole": "choose this view or a rectangle", "plane": "choose this view or a rectangle",
            "view": "zoom in", "rectangle": "draw a smaller rectangle"}


def _is_whole(wish: Wish, look: Look) -> bool:
    """Whether all of an image is wished for."""
    return wish.kind == "whole" or (wish.kind == "plane" and look.grid.ndim == 2)


def _which(level: int, look: Look, sizeless: bool) -> str:
    """Which of several resolutions a model gets, and why."""
    if len(look.levels) == 1:
        return ""
    why = "that of the model"
    if sizeless:
        why = "the one in sight: zoom in for a finer one" if level else "the finest"
    return f", resolution {level + 1} of {len(look.levels)}, {why}"


def _window(wish: Wish, axes: int, model_axes: int) -> tuple[slice, ...]:
    """The region with the planes that a model of so many axes needs."""
    window, plane = wish.region
    if plane is None or wish.kind in ("whole", "rectangle"):
        return window
    if model_axes == 3 and wish.kind == "plane":
        raise DataError("a single plane", expected="a volume, which this model was trained on",
                        remedy="choose the whole image, this view, or a 2D model")
    return window if model_axes == axes else (slice(plane, plane + 1), *window[1:])


def _scaled(window: tuple[slice, ...], finest: tuple[int, ...], level: tuple[int, ...]) -> tuple[slice, ...]:
    """The window at another resolution."""
    return tuple(slice(w.start * m // n, max(w.start * m // n + 1, -(-w.stop * m // n)))
                 for w, n, m in zip(window, finest, level, strict=True))
