"""biosegkit: self-configuring segmentation of biomedical images, 2D and 3D, semantic and instance.

The public names are loaded on first use, so that ``import biosegkit`` is quick and loads neither torch nor napari.

Examples
--------
>>> import biosegkit as bsk
>>> bsk.Grid.regular((4, 4), 0.5, "um").spacing
(0.5, 0.5)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import io as io
    from .bundle import load as load
    from .cases import Case as Case
    from .cases import Dataset as Dataset
    from .cases import Description as Description
    from .cases import scan as scan
    from .checks import diagnose as diagnose
    from .configure import make_plan as make_plan
    from .engines import load_model as load_model
    from .errors import BiosegError as BiosegError
    from .errors import Problem as Problem
    from .evaluate import evaluate as evaluate
    from .evaluate import evaluate_folder as evaluate_folder
    from .fingerprint import Fingerprint as Fingerprint
    from .fingerprint import measure as measure
    from .grid import Grid as Grid
    from .image import Image as Image
    from .image import Labels as Labels
    from .io import ReadOptions as ReadOptions
    from .io import read as read
    from .io import read_labels as read_labels
    from .io import write as write
    from .methods import METHODS as METHODS
    from .nets import NETS as NETS
    from .plan.schema import Plan as Plan
    from .predict import predict as predict
    from .predict import predict_files as predict_files
    from .predictor import Prediction as Prediction
    from .predictor import Predictor as Predictor
    from .recipe_run import run_recipe as run_recipe
    from .report import write_report as write_report
    from .train import fit as fit

    __version__: str

__all__ = [
    "METHODS", "NETS", "BiosegError", "Case", "Dataset", "Description", "Fingerprint", "Grid", "Image", "Labels",
    "Plan", "Prediction", "Predictor", "Problem", "ReadOptions", "__version__", "diagnose", "evaluate",
    "evaluate_folder", "fit", "io", "load", "load_model", "make_plan", "measure", "predict", "predict_files", "read",
    "read_labels", "run_recipe", "scan", "write", "write_report",
]

#: Where each public name lives.
_HOMES = {
    "METHODS": "methods", "NETS": "nets", "BiosegError": "errors", "Case": "cases", "Dataset": "cases",
    "Description": "cases", "Fingerprint": "fingerprint", "Grid": "grid", "Image": "image", "Labels": "image",
    "Plan": "plan.schema", "Prediction": "predictor", "Predictor": "predictor", "Problem": "errors",
    "ReadOptions": "io", "diagnose": "checks", "evaluate": "evaluate", "evaluate_folder": "evaluate", "fit": "train",
    "load": "bundle", "load_model": "engines", "make_plan": "configure", "measure": "fingerprint", "predict": "predict",
    "predict_files": "predict", "read": "io", "read_labels": "io", "run_recipe": "recipe_run", "scan": "cases",
    "write": "io", "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("biosegkit")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name == "io":
        value = importlib.import_module(".io", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class _Package(ModuleType):
    """The type of this package, so that ``biosegkit.predict`` stays the function.

    Python binds a module that is imported to its package under the module's name; ``predict`` and ``evaluate`` are
    modules and public functions alike, and the function is meant. ``from biosegkit.predict import …`` is unaffected.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and _HOMES.get(name) == name):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
