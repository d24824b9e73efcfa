"""One image segmented once, and decoded again for every move of a slider: the network does not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .bundle import Bundle
from .image import Image
from .methods.protocol import Tunable
from .predictor import MapPredictor, Prediction, Predictor
from .segmenter import Segmenter

__all__ = ["Live", "live"]


@dataclass(frozen=True, eq=False)
class Live:
    """What is left of one image when the network has run.

    Parameters
    ----------
    again : callable
        Thresholds to a prediction.
    tunables : dict of str to Tunable
        Thresholds that can be moved; none of a model without maps.
    start : dict of str to float
        Those the model has now.
    trained : dict of str to float
        Those that training found, to which a slider can be reset.
    notes : tuple of str
        Of reading and of the network.
    """

    again: Callable[[Mapping[str, float]], Prediction]
    tunables: Mapping[str, Tunable] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def decode(self, thresholds: Mapping[str, float] | None = None) -> Prediction:
        """Labels and objects at these thresholds, those of the model where none is given.

        Raises
        ------
        OptionError
            For an unknown threshold or a value beyond its range.
        """
        found = self.again({**self.start, **(thresholds or {})})
        return replace(found, notes=tuple(dict.fromkeys((*self.notes, *found.notes))))


def live(model: Predictor, image: Image, *, tta: bool = False) -> Live:
    """Run a model on an image and keep what its thresholds act on.

    Parameters
    ----------
    model : Predictor
        A bundle keeps states, which are small and decoded fast; a model with maps keeps these; any other keeps its
        prediction.
    image : Image
    tta : bool
        Average the maps of mirrored copies; of a bundle only.

    Examples
    --------
    >>> import numpy as np, biosegkit as bsk
    >>> stripe = Image(np.array([[[9, 200, 9, 9, 180]]]), bsk.Grid.regular((1, 5)))
    >>> found = live(bsk.load_model("otsu", options={"sigma": 0}), stripe)
    >>> found.decode().labels.array.tolist(), dict(found.tunables)
    ([[0, 1, 0, 0, 2]], {})
    """
    if isinstance(model, Bundle | Segmenter):
        segmenter = model.segmenter if isinstance(model, Bundle) else model
        made = segmenter.states(image, tta=tta)
        tunables = segmenter.method.tunables
        defaults = {name: tunable.default for name, tunable in tunables.items()}
        start = {**defaults, **segmenter.thresholds}
        trained = {**start, **(model.info.get("trained_thresholds", {}) if isinstance(model, Bundle) else {})}
        return Live(made.decode, tunables, start, trained, made.notes)
    tunables = getattr(model, "tunables", {})
    if isinstance(model, MapPredictor) and tunables:
        maps = dict(model.maps(image))
        start = {name: float(tunable.default) for name, tunable in tunables.items()}
        return Live(partial(_decoded, model, maps, image), tunables, start, start, image.notes)
    found = model.predict(image)
    return Live(lambda _: found)


def _decoded(model: MapPredictor, maps: Mapping[str, Any], image: Image, thresholds: Mapping[str, float]) -> Prediction:
    """Labels of an engine's maps, named after their image."""
    found = model.decode(maps, thresholds, image.grid)
    return replace(found, labels=replace(found.labels, source=image.source))
