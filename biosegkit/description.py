"""What the user says about a data set: ``dataset.json`` (a superset of nnU-Net's) and the command line's options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ._atomic import read_json
from ._words import complaints, counted
from .errors import DataError
from .io import ReadOptions
from .io.colours import renaming

__all__ = ["Description"]

#: Entries of other tools' ``dataset.json`` that inform people and change nothing here.
_INFORMATIVE = frozenset({
    "name", "dataset_name", "description", "reference", "licence", "license", "release", "citation", "converted_by",
    "overwrite_image_reader_writer", "tensorImageSize", "numTest", "training", "test", "relase",
})


class Description(BaseModel):
    """Names and geometry that files do not hold, or that a user corrects.

    Every field of nnU-Net's ``dataset.json`` is accepted, and the Medical Segmentation Decathlon's older form of it
    (``modality``, names and numbers of ``labels`` exchanged). Anything else is refused, so that a typing error is seen.

    Parameters
    ----------
    channel_names : tuple of str
        One name per input channel; names such as ``CT`` choose the normalisation.
    labels : dict
        Name to value, or to several values for a region that overlaps others. ``background`` is 0.
    regions_class_order : tuple of int
        The values painted for the regions, in painting order.
    ignore : int, optional
        Value of voxels without annotation; also ``ignore_label``, or a label that is named ``ignore``.
    axes : str, optional
        Order of the stored axes, e.g. ``"czyx"``.
    spacing : tuple of float, optional
        Distance between voxels in array order (z, y, x), in ``unit``.
    pixel_size : float, optional
        In-plane distance between pixels, in ``unit``.
    mapping : dict
        Label values to rename on reading, ``{255: 1}``, and numbers of colours, ``{"#ff0000": 1}``; ``map`` in JSON.
    task : {"semantic", "instance"}, optional
        Overrides what is found.
    group : str, optional
        Regular expression; its first group (or all it matches) in a case's id is the patient or slide.
    trust_index : bool
        Take labels voxel by voxel where their affine differs from the image's (fault G2).

    Examples
    --------
    >>> about = Description.model_validate({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}})
    >>> about.channel_names, about.classes, about.ignore_value
    (('CT',), (('background', 0), ('liver', 1)), None)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    channel_names: tuple[str, ...] = ()
    labels: dict[str, int | tuple[int, ...]] = Field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()
    ignore: int | None = None
    num_training: int | None = Field(default=None, alias="numTraining")
    file_ending: str | None = None
    axes: str | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    pixel_size: float | None = None
    mapping: dict[int | str, int] = Field(default_factory=dict, alias="map")
    task: Literal["semantic", "instance"] | None = None
    group: str | None = None
    trust_index: bool = False

    @model_validator(mode="before")
    @classmethod
    def _older_forms(cls, data: Any) -> Any:
        """Translate other spellings and drop what only informs."""
        if not isinstance(data, dict):
            return data
        data = {k: v for k, v in data.items() if k not in _INFORMATIVE}
        for old, new in (("modality", "channel_names"), ("ignore_label", "ignore")):
            if old in data:
                if new in data:
                    raise ValueError(f"both {old} and {new}")
                data[new] = data.pop(old)
        return data

    @field_validator("channel_names", mode="before")
    @classmethod
    def _ordered_names(cls, value: Any) -> Any:
        """nnU-Net numbers channels by string keys."""
        if not isinstance(value, dict):
            return value
        keys = sorted(int(k) for k in value)
        if keys != list(range(len(keys))):
            raise ValueError(f"channels numbered {keys}, expected 0, 1, … without gaps")
        return tuple(str({int(k): v for k, v in value.items()}[k]) for k in keys)

    @field_validator("labels", mode="before")
    @classmethod
    def _name_to_value(cls, value: Any) -> Any:
        """The Decathlon writes ``{"1": "liver"}``, nnU-Net ``{"liver": 1}``."""
        if not isinstance(value, dict) or not value or not all(str(k).isdigit() for k in value):
            return value
        if any(not isinstance(v, str) for v in value.values()):
            return value
        return {name: int(number) for number, name in value.items()}

    @field_validator("spacing", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Accept one number, a list, or text such as ``1.75,0.8,0.8``."""
        if isinstance(value, str):
            return tuple(float(v) for v in re.split(r"[,; x×]+", value.strip()))
        return (float(value),) if isinstance(value, int | float) else value

    @field_validator("mapping", mode="before")
    @classmethod
    def _values_and_colours(cls, value: Any) -> Any:
        return renaming(value) if isinstance(value, dict) else value

    @field_validator("group")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        named = self.labels.get("ignore")
        if named is not None and (not isinstance(named, int) or self.ignore not in (None, named)):
            raise ValueError(f"label ignore {named} and ignore {self.ignore}: one value is needed")
        if self.labels.get("background", 0) != 0:
            raise ValueError(f"background {self.labels['background']}, expected 0 (rename values with map)")
        single = [v for n, v in self.labels.items() if isinstance(v, int)]
        if len(set(single)) != len(single):
            raise ValueError(f"two labels share a value: {self.labels}")
        self._check_order()
        return self

    def _check_order(self) -> None:
        """One value per region, in the order of ``labels``, and a value that a region has."""
        order, regions = self.regions_class_order, self.regions
        if not order or not regions:
            return
        if len(order) != len(regions):
            raise ValueError(f"regions_class_order {list(order)} for {counted(len(regions), 'region')} "
                             f"({', '.join(n for n, _ in regions)}): one value per region is needed")
        strange = sorted(set(order) - {v for _, values in regions for v in values})
        if strange:
            raise ValueError(f"regions_class_order {list(order)}: {strange} are in no region")

    @classmethod
    def read(cls, path: str | Path) -> Description:
        """Read ``dataset.json``.

        Raises
        ------
        FileError
            If it is not JSON.
        DataError
            If an entry is unknown or of another type, all of them listed.
        """
        return cls.from_data(read_json(path), str(path))

    @classmethod
    def from_data(cls, data: Any, file: str | None = None) -> Description:
        """A description from plain data; ``file`` names it in errors."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            known = sorted(f.alias or name for name, f in cls.model_fields.items())
            raise DataError(complaints(error.errors(), known), file=file, expected=f"entries {', '.join(known)}",
                            remedy="correct the entry") from error

    def merged(self, other: Description | None) -> Description:
        """The same description, with everything that ``other`` sets in its place."""
        if other is None:
            return self
        fields = {name: getattr(other, name) for name in other.model_fields_set}
        return self.model_copy(update=fields)

    @property
    def ignore_value(self) -> int | None:
        """The user's value of voxels without annotation."""
        named = self.labels.get("ignore")
        return named if isinstance(named, int) else self.ignore

    @property
    def classes(self) -> tuple[tuple[str, int], ...]:
        """Names and values of single-valued labels by rising value, background first, without ignore."""
        table = {n: v for n, v in self.labels.items() if isinstance(v, int) and n != "ignore"}
        if self.labels:
            table.setdefault("background", 0)
        return tuple(sorted(table.items(), key=lambda item: item[1]))

    @property
    def regions(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and values of the regions, when any label has several values: then every label is a region."""
        if not any(isinstance(v, tuple) for v in self.labels.values()):
            return ()
        return tuple((n, v if isinstance(v, tuple) else (v,)) for n, v in self.labels.items()
                     if n not in ("background", "ignore"))

    @property
    def known_values(self) -> frozenset[int]:
        """Every value named by ``labels``; empty when nothing is named."""
        values = {0} if self.labels else set()
        for value in self.labels.values():
            values.update(value if isinstance(value, tuple) else (value,))
        return frozenset(values)

    def read_options(self, **override: Any) -> ReadOptions:
        """Options for :func:`biosegkit.read`; ``override`` replaces single ones."""
        values: dict[str, Any] = {
            "axes": self.axes, "spacing": self.spacing, "unit": self.unit, "pixel_size": self.pixel_size,
            "channel_names": self.channel_names,
        }
        return ReadOptions(**{**values, **override})

    def label_options(self, **override: Any) -> ReadOptions:
        """The same for label files, which have neither channels nor colours."""
        axes = "".join(a for a in self.axes.lower() if a in "zyx") if self.axes else None
        return self.read_options(**{"axes": axes, "channel_names": (), **override})
