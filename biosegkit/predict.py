"""From images to labels: one image, or files to files."""

from __future__ import annotations

from collections.abc import Mapping

from .bundle import Bundle
from .errors import OptionError
from .image import Image
from .predictor import MapPredictor, Prediction, Predictor
from .segmenter import Segmenter

__all__ = ["predict"]


def predict(model: Predictor, image: Image, *, tta: bool = False, thresholds: Mapping[str, float] | None = None,
            maps: bool = False) -> Prediction:
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
        return model.predict(image, tta=tta, thresholds=thresholds, maps=maps)
    if tta:
        raise OptionError("test-time augmentation with a model that is no bundle", remedy="leave out --tta")
    if not thresholds and not maps:
        return model.predict(image)
    if not isinstance(model, MapPredictor):
        raise OptionError("thresholds or maps with a model that has no maps", remedy="leave them out")
    dense = model.maps(image)
    found = model.decode(dense, dict(thresholds or {}))
    return Prediction(found.labels, found.objects, dense if maps else None, found.notes)
