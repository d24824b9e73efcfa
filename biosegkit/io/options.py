"""What a user may say about a file that the file does not say itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil

from biosegkit.errors import OptionError

__all__ = ["UNITS", "ReadOptions"]

#: Names of length units as they occur in files → (our unit, factor into it).
UNITS: dict[str, tuple[str, float]] = {
    "px": ("px", 1.0), "pixel": ("px", 1.0), "pixels": ("px", 1.0), "": ("px", 1.0),
    "nm": ("nm", 1.0), "nanometer": ("nm", 1.0), "nanometre": ("nm", 1.0), "nanometers": ("nm", 1.0),
    "um": ("um", 1.0), "µm": ("um", 1.0), "μm": ("um", 1.0), "\\u00b5m": ("um", 1.0), "micron": ("um", 1.0),
    "microns": ("um", 1.0), "micrometer": ("um", 1.0), "micrometre": ("um", 1.0), "micrometers": ("um", 1.0),
    "mm": ("mm", 1.0), "millimeter": ("mm", 1.0), "millimetre": ("mm", 1.0), "millimeters": ("mm", 1.0),
    "cm": ("mm", 10.0), "centimeter": ("mm", 10.0), "centimetre": ("mm", 10.0),
    "m": ("mm", 1000.0), "meter": ("mm", 1000.0), "metre": ("mm", 1000.0),
    "inch": ("mm", 25.4), "in": ("mm", 25.4), "å": ("nm", 0.1), "angstrom": ("nm", 0.1), "pm": ("nm", 1e-3),
}
_LETTERS = "tczyxs"


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file, where its own metadata are absent or wrong.

    Parameters
    ----------
    axes : str, optional
        One letter per axis of the stored array, first axis first: ``t c z y x`` or ``s`` (colour samples). NIfTI
        arrays may be named in file order (``"xyzc"``) or reversed (``"czyx"``).
    spacing : tuple of float, optional
        Distance of neighbouring voxels per spatial axis, ``(z, y, x)`` or ``(y, x)``.
    unit : str, optional
        ``"mm"``, ``"um"``, ``"nm"`` or ``"px"``.
    pixel_size : float, optional
        In-plane size of a pixel, in ``unit`` (micrometres if none is given).
    channel_names : tuple of str
        One per channel; with three, grey that is stored as RGB stays in three channels.
    memory_budget : int, optional
        Bytes one array may take; by default 80 % of the memory now available.
    frame : int, optional
        Which time point to take from a file with several.
    series : int, optional
        Which image to take from a file with several.

    Examples
    --------
    >>> ReadOptions(axes="ZYX", spacing=(2, 0.5, 0.5), unit="µm")
    ReadOptions(axes='zyx', spacing=(2.0, 0.5, 0.5), unit='um', pixel_size=None, channel_names=(), \
memory_budget=None, frame=None, series=None)
    """

    axes: str | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    pixel_size: float | None = None
    channel_names: tuple[str, ...] = ()
    memory_budget: int | None = None
    frame: int | None = None
    series: int | None = None

    def __post_init__(self) -> None:
        if self.axes is not None:
            axes = self.axes.lower()
            if set(axes) - set(_LETTERS) or len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes):
                raise OptionError(f"axes {self.axes!r}", expected=f"different letters of {_LETTERS!r} with y and x",
                                  remedy="for example --axes zyx")
            object.__setattr__(self, "axes", axes)
        if self.spacing is not None:
            object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        if self.unit is not None:
            unit, factor = UNITS.get(self.unit.lower(), ("", 0.0))
            if factor != 1.0:
                raise OptionError(f"unit {self.unit!r}", expected="mm, um, nm or px",
                                  remedy="convert the spacing to one of these")
            object.__setattr__(self, "unit", unit)
        for size in (*(self.spacing or ()), *(() if self.pixel_size is None else (self.pixel_size,))):
            if not (math.isfinite(size) and size > 0):
                raise OptionError(f"spacing or pixel size {size}", expected="positive numbers",
                                  remedy="for example --pixel-size 0.5, or --spacing 2,0.5,0.5")
        object.__setattr__(self, "channel_names", tuple(self.channel_names))

    def filled(self, said: Mapping[str, Any]) -> ReadOptions:
        """With what a data set says, where the user says nothing.

        Examples
        --------
        >>> ReadOptions(unit="nm").filled({"unit": "um", "frame": 2}) == ReadOptions(unit="nm", frame=2)
        True
        """
        return replace(self, **{k: v for k, v in said.items() if getattr(self, k) in (None, ())})

    @property
    def budget(self) -> int:
        """Bytes one array may take."""
        if self.memory_budget is not None:
            return self.memory_budget
        return int(0.8 * psutil.virtual_memory().available)
