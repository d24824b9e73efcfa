"""The command line's options, written once: each group is a frozen dataclass that verbs take whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .errors import DataError, OptionError
from .plan.losses import LOSSES
from .plan.preferences import METHOD_NAMES

if TYPE_CHECKING:
    from .description import Description
    from .scores import ScoreOptions

__all__ = ["Choosing", "Common", "Computing", "Describing", "Geometry", "Grouping", "Meaning", "Planning",
           "Replacing", "Scoring", "Training", "Writing", "flattened", "pairs"]

_DATA, _PLAN, _TRAIN = "Describing the data", "The plan", "Training"


@dataclass(frozen=True)
class Common:
    """What every verb takes."""

    verbose: Annotated[bool, typer.Option("--verbose", help="Say more; show the traceback of an error.")] = False


@dataclass(frozen=True)
class Computing:
    """What every verb that computes takes."""

    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto"


@dataclass(frozen=True)
class Writing:
    """What every verb that writes takes."""

    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False


@dataclass(frozen=True)
class Replacing:
    """What stands in place of a recipe's own entries."""

    data: Annotated[str | None, typer.Option(metavar="DATASET", help="Data set in place of the recipe's.")] = None
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="RUN",
                                                help="Run folder in place of the recipe's.")] = None
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time in place of the recipe's.")] = None
    origin: Annotated[Path | None, typer.Option(
        "--from", metavar="MODEL", help="Start from the weights of a model, in place of the recipe's.")] = None

    def changes(self) -> dict[str, str]:
        """What was given, by the recipe's field."""
        given = {"data": self.data, "out": None if self.output is None else str(self.output), "budget": self.budget,
                 "origin": None if self.origin is None else str(self.origin)}
        return {k: v for k, v in given.items() if v is not None}


@dataclass(frozen=True)
class Geometry:
    """Where voxels are, if the files do not say it or say it wrong."""

    axes: Annotated[str | None, typer.Option(
        metavar="LETTERS", help="Order of the stored axes, e.g. zyx, tczyx.", rich_help_panel=_DATA)] = None
    spacing: Annotated[str | None, typer.Option(
        metavar="Z,Y,X", help="Distance between voxels in array order.", rich_help_panel=_DATA)] = None
    unit: Annotated[str | None, typer.Option(
        metavar="mm|um|nm|px", help="Unit of the spacing.", rich_help_panel=_DATA)] = None
    pixel_size: Annotated[float | None, typer.Option(
        metavar="SIZE", help="In-plane distance between pixels, in the unit (um if none).",
        rich_help_panel=_DATA)] = None
    channels: Annotated[str | None, typer.Option(
        metavar="NAME,NAME,…", help="Names of the channels; with three, grey RGB images are read as colours.",
        rich_help_panel=_DATA)] = None

    def description(self, **more: Any) -> Description:
        """The description of what was given, here and in ``more``; what was not stays unset."""
        from .description import Description

        given = {f.name: getattr(self, f.name) for f in fields(self)} | more
        names = given.pop("channels")
        given["channel_names"] = None if names is None else [name.strip() for name in names.split(",")]
        chosen = {k: v for k, v in given.items() if v is not None and v is not False and v != {}}
        try:
            about = Description.from_data(chosen)
            about.read_options()
        except DataError as error:
            raise OptionError(error.found, expected="options as --help describes them",
                              remedy="correct the option") from error
        return about


@dataclass(frozen=True)
class Meaning:
    """What label values mean."""

    renamed: Annotated[list[str] | None, typer.Option(
        "--map", metavar="OLD=NEW",
        help="Rename a label value on reading, e.g. 255=1, or number a colour, '#ff0000=1' (repeatable).",
        rich_help_panel=_DATA)] = None
    task: Annotated[str | None, typer.Option(
        metavar="semantic|instance", help="What labels mean, where it is not as found.", rich_help_panel=_DATA)] = None
    trust_index: Annotated[bool, typer.Option(
        "--trust-index", help="Compare voxel by voxel although two headers place them apart.",
        rich_help_panel=_DATA)] = False

    def entries(self) -> dict[str, Any]:
        """The entries of a description."""
        return {"map": self.mapping(), "task": self.task, "trust_index": self.trust_index}

    def mapping(self) -> dict[int | str, int]:
        """Values to rename, and numbers of colours."""
        from .io.colours import renaming

        try:
            return renaming(pairs(self.renamed, "--map", "old=new"))
        except ValueError as error:
            raise OptionError(f"--map {' '.join(self.renamed or [])} ({error})",
                              expected="whole numbers, as in --map 255=1, or a colour and its number",
                              remedy="for example --map 255=1 or --map '#ff0000=1'") from error


@dataclass(frozen=True)
class Choosing:
    """Which cases of a data set."""

    where: Annotated[list[str] | None, typer.Option(
        metavar="COLUMN=VALUE", help="Use only the rows of the table with this value (repeatable).",
        rich_help_panel=_DATA)] = None

    def conditions(self) -> dict[str, list[str]]:
        """The rows to keep: values by column."""
        found: dict[str, list[str]] = {}
        for column, value in pairs(self.where, "--where", "column=value"):
            found.setdefault(column, []).append(value)
        return found


@dataclass(frozen=True)
class Grouping:
    """What belongs together."""

    group: Annotated[str | None, typer.Option(
        metavar="REGEX", help="Finds the patient or slide in a case's id; splits never cut a group.",
        rich_help_panel=_DATA)] = None


@dataclass(frozen=True)
class Describing:
    """All that can be said about a data set."""

    choosing: Choosing
    geometry: Geometry
    meaning: Meaning
    grouping: Grouping

    def conditions(self) -> dict[str, list[str]]:
        """The rows to keep: values by column."""
        return self.choosing.conditions()

    def description(self) -> Description:
        """The description of what was given; what was not stays unset."""
        return self.geometry.description(group=self.grouping.group, **self.meaning.entries())


@dataclass(frozen=True)
class Planning:
    """What the plan is made from; None leaves the choice to biosegkit."""

    budget: Annotated[str | None, typer.Option(
        metavar="TIME", help="Time for the whole command, e.g. 90s, 15m, 1h30m.", rich_help_panel=_PLAN)] = None
    memory: Annotated[str | None, typer.Option(
        metavar="SIZE", help="Memory to stay within, e.g. 8GB.", rich_help_panel=_PLAN)] = None
    network: Annotated[str | None, typer.Option(
        metavar="NAME", help="Network, e.g. unet.", rich_help_panel=_PLAN)] = None
    encoder: Annotated[str | None, typer.Option(
        metavar="NAME", help="Encoder of fpn, deeplabv3plus, …, e.g. resnet34, tu-convnext_atto.",
        rich_help_panel=_PLAN)] = None
    encoder_weights: Annotated[str | None, typer.Option(
        metavar="imagenet|FILE", help="What the encoder begins with: a download by name, or a .safetensors file.",
        rich_help_panel=_PLAN)] = None
    method: Annotated[str | None, typer.Option(
        metavar="NAME", help=f"From maps to labels: {', '.join(METHOD_NAMES)}; by default chosen by evidence.",
        rich_help_panel=_PLAN)] = None
    race: Annotated[bool, typer.Option(
        "--race", help="Train the two best methods briefly and keep the better one.", rich_help_panel=_PLAN)] = False
    loss: Annotated[str | None, typer.Option(
        metavar="NAME[+NAME]", help=f"Loss, or a sum: {', '.join(LOSSES)}.", rich_help_panel=_PLAN)] = None
    class_weights: Annotated[str | None, typer.Option(
        metavar="W,W,…|balanced", help="Weights in the loss: one per class, background first, or one per region.",
        rich_help_panel=_PLAN)] = None
    preset: Annotated[str, typer.Option(metavar="NAME", help="Rule set.", rich_help_panel=_PLAN)] = "default"
    config: Annotated[str | None, typer.Option(
        metavar="2d|3d_fullres|3d_lowres", help="Working resolution.", rich_help_panel=_PLAN)] = None
    seed: Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=_PLAN)] = 0

    def given(self) -> dict[str, Any]:
        """Keyword arguments of :func:`biosegkit.make_plan`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def changed(self) -> list[str]:
        """Names of the options that differ from their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


@dataclass(frozen=True)
class Training:
    """How to train."""

    plan: Annotated[Path | None, typer.Option(
        metavar="plan.json", help="Train this plan instead of making one.", rich_help_panel=_TRAIN)] = None
    folds: Annotated[str | None, typer.Option(
        metavar="0|0,1|all", help="Folds of the cross-validation to train.", rich_help_panel=_TRAIN)] = None
    steps: Annotated[int | None, typer.Option(
        min=1, help="Train so many steps, whatever the clock says.", rich_help_panel=_TRAIN)] = None
    origin: Annotated[Path | None, typer.Option(
        "--from", metavar="MODEL", help="Start from the weights of a model: network, spacing and method are its own.",
        rich_help_panel=_TRAIN)] = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.",
                                         rich_help_panel=_TRAIN)] = False

    def fold_list(self) -> list[int] | str | None:
        """The folds asked for: numbers, ``"all"`` or None."""
        if self.folds is None or self.folds == "all":
            return self.folds
        try:
            numbers = sorted({int(part) for part in self.folds.split(",")})
        except ValueError:
            numbers = []
        if not numbers or numbers[0] < 0:
            raise OptionError(f"--folds {self.folds}", expected="all, or numbers from 0 separated by commas",
                              remedy="for example --folds 0,1")
        return numbers


@dataclass(frozen=True)
class Scoring:
    """How to score, and what to make of it."""

    metrics: Annotated[str | None, typer.Option(
        metavar="NAMES", help="Scores to compute, e.g. dice,hd95 or ap,v_rand; docs/metrics.md lists all.")] = None
    everything: Annotated[bool, typer.Option("--all", help="Compute every score, also the costly ones.")] = False
    surface: Annotated[str, typer.Option(
        metavar="NAME", help="Definition of surface distances: voxel, subvoxel, deepmind, medpy, …")] = "voxel"
    tolerance: Annotated[float, typer.Option(
        metavar="SIZE", help="Distance that NSD and boundary F1 forgive, in the unit of the truth.")] = 1.0
    percentile: Annotated[float, typer.Option(metavar="P", help="Percentile of the Hausdorff distance.")] = 95.0
    include_background: Annotated[bool, typer.Option(
        "--include-background", help="Score the background as a class.")] = False
    compare: Annotated[Path | None, typer.Option(
        metavar="OTHER", help="Compare with another model: its predictions, or the scores.json made of them.")] = None
    maps: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="Probability maps for calibration, if they are not beside the predictions.")] = None
    no_pictures: Annotated[bool, typer.Option(
        "--no-pictures", help="Write no page with pictures beside scores.json.")] = False

    def options(self) -> ScoreOptions:
        """What :func:`biosegkit.evaluate_folder` takes."""
        from .scores import ScoreOptions

        names = tuple(name.strip() for name in (self.metrics or "").split(",") if name.strip())
        if self.metrics is not None and (not names or self.everything):
            raise OptionError(f"--metrics {self.metrics}{' --all' if self.everything else ''}",
                              expected="names separated by commas, or --all", remedy="for example --metrics dice,hd95")
        return ScoreOptions(include_background=self.include_background, metrics=("all",) if self.everything else names,
                            surface=self.surface, tolerance=self.tolerance, percentile=self.percentile)


def pairs(entries: list[str] | None, option: str, form: str) -> list[tuple[str, str]]:
    """Entries ``a=b`` of a repeatable option, taken apart.

    Raises
    ------
    OptionError
        If an entry has no ``=`` or nothing before it.

    Examples
    --------
    >>> pairs(["split=train", "type=a=b"], "--where", "column=value")
    [('split', 'train'), ('type', 'a=b')]
    """
    found = []
    for entry in entries or []:
        name, sign, value = entry.partition("=")
        if not (sign and name.strip()):
            raise OptionError(f"{option} {entry}", expected=f"{option} {form}", remedy="write it with an equals sign")
        found.append((name.strip(), value.strip()))
    return found


def flattened(verb: Callable[..., None]) -> Callable[..., None]:
    """A function that takes the fields of ``verb``'s dataclass parameters one by one, for typer to read."""
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            parameters += _laid_out(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def flat(**values: Any) -> None:
        built = {name: _built(kind, values) for name, kind in groups.items()}
        verb(**values, **built)

    flat.__name__, flat.__doc__ = verb.__name__, verb.__doc__
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def _laid_out(group: Any) -> list[inspect.Parameter]:
    """One keyword parameter per field, fields of groups in groups included."""
    kinds = get_type_hints(group, include_extras=True)
    found: list[inspect.Parameter] = []
    for f in fields(group):
        if is_dataclass(kinds[f.name]):
            found += _laid_out(kinds[f.name])
        else:
            default = inspect.Parameter.empty if f.default is MISSING else f.default
            found.append(inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default,
                                           annotation=kinds[f.name]))
    return found


def _built(group: Any, values: dict[str, Any]) -> Any:
    """The group, its fields taken out of ``values``."""
    kinds = get_type_hints(group)
    return group(**{f.name: _built(kinds[f.name], values) if is_dataclass(kinds[f.name]) else values.pop(f.name)
                    for f in fields(group)})
