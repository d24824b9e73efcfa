"""The one door for optional packages: a missing one is an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import OptionError

EXTRAS = {
    "napari": "napari",
    "cellpose": "cellpose",
    "dask": "batch",
    "distributed": "batch",
    "einops": "nets",
    "h5py": "stardist",
    "highdicom": "dicom",
    "huggingface_hub": "nets",
    "openslide": "slides",
    "pyarrow": "batch",
    "pydicom": "dicom",
    "segmentation_models_pytorch": "nets",
    "timm": "nets",
    "wsidicom": "slides",
}


def optional(name: str) -> ModuleType:
    """Import an optional package.

    Raises
    ------
    OptionError
        If it is not installed; the remedy names the extra.

    Examples
    --------
    >>> optional("math").pi > 3
    True
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise
        extra = EXTRAS.get(name.split(".")[0], "all")
        raise OptionError(
            f"the package {name!r} is not installed", remedy=f"pip install 'biosegkit[{extra}]'"
        ) from error
