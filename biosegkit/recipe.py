"""Recipes: a whole run in one YAML file, read as data; :mod:`biosegkit.recipe_run` carries it out."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .description import Description
from .errors import FileError, OptionError, PlanError
from .io.formats import remote_url
from .plan.networks import NETWORKS
from .plan.units import parse_duration, parse_memory

__all__ = ["Evaluating", "PlanOptions", "Predicting", "Recipe", "load_recipe", "recipe_names"]

#: No recipe is larger (fault S7).
_LARGEST = 1 << 20
_PACKAGE = "biosegkit_pipelines"

Where = dict[str, str | list[str]]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanOptions(_Frozen):
    """What the plan is made from; as the options of ``biosegkit plan``."""

    budget: str | float | None = None
    memory: str | int | None = None
    preset: str = "default"
    network: str | None = None
    encoder: str | None = None
    encoder_weights: str | None = None
    method: str | None = None
    race: bool = False
    loss: str | None = None
    class_weights: str | tuple[float, ...] | None = None
    config: Literal["2d", "3d_fullres", "3d_lowres"] | None = None
    seed: int = 0
    folds: int | None = Field(default=None, ge=1, le=5)
    steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _readable(self) -> PlanOptions:
        try:
            if self.budget is not None:
                # A bare number means seconds to some and minutes to others; parse_duration says so of a text.
                parse_duration(self.budget if isinstance(self.budget, str) else f"{self.budget:g}")
            if self.memory is not None:
                parse_memory(self.memory)
        except OptionError as error:
            raise ValueError(str(error)) from error
        return self


class Predicting(_Frozen):
    """What to segment with the model: files, or rows of the data set; ``options`` are those of post-processing.

    ``depth``, ``states``, ``workers`` and ``memory`` (of one worker) are those of ``biosegkit predict``.
    """

    inputs: tuple[str, ...] = ()
    where: Where = Field(default_factory=dict)
    out: str | None = None
    tta: bool = False
    thresholds: dict[str, float] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    save_maps: bool = False
    also: tuple[str, ...] = ()
    tissue: str = "auto"
    depth: int | Literal["mean"] | None = None
    states: str | None = None
    workers: int | None = Field(default=None, ge=1)
    memory: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Predicting:
        try:
            if self.memory is not None:
                parse_memory(self.memory)
        except OptionError as error:
            raise ValueError(str(error)) from error
        return self


class Evaluating(_Frozen):
    """What the predictions are compared with; by default the data set itself, on the rows that were predicted."""

    truth: str | None = None
    where: Where = Field(default_factory=dict)
    include_background: bool = False


class Recipe(_Frozen):
    """A whole run as data.

    Parameters
    ----------
    name, description : str
        For people.
    data : str, optional
        A DATASET; a relative path counts from the recipe's folder.
    where : dict
        Rows to train on: a value, or a list of them, by column.
    describe : Description
        What the files do not say; as ``dataset.json``.
    plan : PlanOptions
        What the plan is made from.
    origin : str, optional
        ``from`` in the file: a model whose weights training begins with, as ``--from``; a relative path counts from the
        recipe's folder.
    networks : tuple of str
        Networks to compare: each is trained in a run of its own, ``out``/name, with the whole budget, and all are put
        into one table.
    out : str, optional
        The run folder, from the current folder; by default the recipe's name.
    predict, evaluate : optional
        What to segment afterwards, and what to compare it with.

    Examples
    --------
    >>> recipe = Recipe.from_data({"name": "a", "data": "cases.csv", "plan": {"budget": "5m"}})
    >>> recipe.plan.budget, recipe.changed(budget="9m").plan.budget
    ('5m', '9m')
    """

    name: str = Field(pattern=r"^[\w .+-]+$")
    description: str = ""
    data: str | None = None
    where: Where = Field(default_factory=dict)
    describe: Description = Field(default_factory=Description)
    plan: PlanOptions = Field(default_factory=PlanOptions)
    origin: str | None = Field(default=None, alias="from")
    networks: tuple[str, ...] = ()
    out: str | None = None
    predict: Predicting | None = None
    evaluate: Evaluating | None = None

    @model_validator(mode="after")
    def _comparable(self) -> Recipe:
        for name in self.networks:
            if name not in NETWORKS:
                near = difflib.get_close_matches(name, NETWORKS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NETWORKS)}"
                raise ValueError(f"networks: unknown network {name!r}, {hint}")
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("networks: one is named twice")
        if self.networks and self.plan.network:
            raise ValueError("networks and plan.network together; leave plan.network out")
        if self.origin is not None and (self.networks or self.plan.race):
            other = "networks" if self.networks else "plan.race"
            raise ValueError(f"from and {other} together; a model has its own network and method")
        if self.networks and self.predict and self.predict.out:
            raise ValueError("networks and predict.out together; each network's predictions stand in its run")
        if self.networks and self.predict and self.predict.states:
            raise ValueError("networks and predict.states together; one folder keeps the states of one model")
        return self

    @classmethod
    def from_data(cls, data: Any, file: str = "recipe") -> Recipe:
        """A recipe from plain data; ``file`` names it in errors.

        Raises
        ------
        PlanError
            If a key is unknown (the nearest right one is named) or a value has another type.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = [_complaint(dict(e)) for e in error.errors()]
            raise PlanError("; ".join(wrong), file=file, expected=f"keys {', '.join(_keys(cls))}",
                            remedy="correct the recipe") from error

    def changed(self, *, data: str | None = None, out: str | None = None, budget: str | None = None,
                origin: str | None = None) -> Recipe:
        """The recipe with what the command line says in place of its own.

        Raises
        ------
        OptionError
            If the budget is no duration, or ``origin`` is given where it cannot be.
        """
        new = {k: v for k, v in (("data", data), ("out", out), ("origin", origin)) if v is not None}
        if origin is not None and (self.networks or self.plan.race):
            raise OptionError(f"--from with recipe {self.name}, which chooses the network or the method itself",
                              expected="a recipe without networks and race", remedy="leave --from out")
        plan = self.plan
        if budget is not None:
            parse_duration(budget)
            plan = plan.model_copy(update={"budget": budget})
        return self.model_copy(update={**new, "plan": plan})

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return Path(self.out or self.name.replace(" ", "_"))

    @property
    def predictions(self) -> Path:
        """Where the predictions go."""
        return Path(self.predict.out) if self.predict and self.predict.out else self.folder / "predictions"

    def alone(self, network: str) -> Recipe:
        """The run of one of the networks."""
        return self.model_copy(update={"networks": (), "out": str(self.folder / network),
                                       "plan": self.plan.model_copy(update={"network": network})})


def _complaint(error: dict[str, Any]) -> str:
    """One wrong entry; for an unknown key the nearest right one."""
    place = [str(part) for part in error["loc"]]
    kinds: dict[str, type[BaseModel]] = {"plan": PlanOptions, "predict": Predicting, "evaluate": Evaluating,
                                         "describe": Description}
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(place) or 'recipe'}: {error['msg']}"
    kind = kinds.get(place[0], Recipe) if len(place) > 1 else Recipe
    known = sorted(_keys(kind))
    near = difflib.get_close_matches(place[-1], known, 1, 0.5)
    elsewhere = [f"{name}.{place[-1]}" for name, other in kinds.items() if place[-1] in _keys(other)]
    elsewhere = [place[-1]] if kind is not Recipe and place[-1] in _keys(Recipe) else elsewhere
    hint = near or elsewhere[:1]
    tail = f", did you mean {hint[0]!r}?" if hint else f"; known: {', '.join(known)}"
    return f"unknown key {'.'.join(place)!r}{tail}"


def _keys(kind: type[BaseModel]) -> list[str]:
    """Keys as they are written in a file."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def recipe_names() -> list[str]:
    """Names of the recipes that come along."""
    return sorted(entry.name.removesuffix(".yaml") for entry in resources.files(_PACKAGE).iterdir()
                  if entry.name.endswith(".yaml"))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe by name or path; relative ``data``, ``from``, ``inputs`` and ``truth`` count from its folder.

    Raises
    ------
    FileError
        If there is no such recipe; the nearest name is given.
    PlanError
        If it is no YAML, uses anchors or repeats a key, or an entry is unknown or of another type.
    """
    path = Path(source)
    if path.is_file():
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{path.stat().st_size} bytes", file=path, expected=f"a recipe of at most {_LARGEST} bytes")
        return _anchored(Recipe.from_data(_parsed(path.read_text(encoding="utf-8"), str(path)), str(path)), path.parent)
    names = recipe_names()
    if str(source) not in names:
        near = difflib.get_close_matches(str(source), names, 1, 0.4)
        raise FileError("no such recipe", file=str(source), expected=f"a file, or one of {', '.join(names)}",
                        remedy=f"did you mean {near[0]}?" if near else "check the path")
    text = resources.files(_PACKAGE).joinpath(f"{source}.yaml").read_text(encoding="utf-8")
    return Recipe.from_data(_parsed(text, str(source)), str(source))


def _parsed(text: str, file: str) -> Any:
    """Plain data from YAML; anchors and repeated keys are refused, as they hide what a recipe says."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PlanError("an alias (*name)", file=file, expected="plain YAML", remedy="write the value out")
        _refuse_repeats(yaml.compose(text, Loader=yaml.SafeLoader), file)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"no readable YAML ({' '.join(str(error).split())})", file=file,
                        remedy="correct the line named") from error
    if not isinstance(data, dict):
        raise PlanError(f"a {type(data).__name__}", file=file, expected="key: value lines")
    return data


def _refuse_repeats(node: yaml.Node | None, file: str) -> None:
    """No mapping may name a key twice; the later would silently win."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise PlanError(f"the key {key.value!r} twice, again in line {key.start_mark.line + 1}", file=file,
                                expected="every key once", remedy="remove one")
            seen.add(key.value)
            _refuse_repeats(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeats(value, file)


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Relative paths made to count from the recipe's folder."""
    def place(text: str | None) -> str | None:
        return None if text is None else "::".join(str(folder / part) for part in text.split("::"))

    changes: dict[str, Any] = {"data": place(recipe.data)}
    if recipe.origin is not None:
        changes["origin"] = str(folder / recipe.origin)
    if recipe.predict:
        inputs = tuple(one if remote_url(one) else str(folder / one) for one in recipe.predict.inputs)
        changes["predict"] = recipe.predict.model_copy(update={"inputs": inputs})
    if recipe.evaluate:
        changes["evaluate"] = recipe.evaluate.model_copy(update={"truth": place(recipe.evaluate.truth)})
    return recipe.model_copy(update=changes)
