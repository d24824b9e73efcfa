"""Recipes: what is refused and how the right key is named, paths, and that the flow gets what the recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest

import biosegkit.recipe as module
from biosegkit.errors import FileError, OptionError, PlanError
from biosegkit.recipe import Recipe, load_recipe, recipe_names


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_recipes_that_come_along_are_valid_and_fit_the_real_tables():
    assert set(recipe_names()) >= {"mri_3d_unet", "em_membranes_2d", "nuclei_2d_distance",
                                   "mri_3d_attention_unet", "em_membranes_2d_unetplusplus", "compare_architectures"}
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.data is None  # named on the command line
        assert recipe.predict.where.get("split") == "test" or recipe.predict.inputs == ("slides",)


@pytest.mark.parametrize(("text", "hint"), [
    ("name: a\nwher: {}", "did you mean 'where'"),
    ("name: a\nbudget: 5m", "did you mean 'plan.budget'"),
    ("name: a\nplan: {buget: 5m}", "did you mean 'budget'"),
    ("name: a\ndescribe: {maap: {255: 1}}", "did you mean 'map'"),
    ("name: a\nplan: {xyzzy: 1}", "known: budget, class_weights, config"),
    ("name: a\nplan: {budget: soon}", "15m"),
    ("name: a\nplan: {budget: 10}", "say 10s or 10m"),
    ("name: a\nplan: {memory: much}", "8GB"),
    ("name: a\nplan: {config: 4d}", "3d_fullres"),
    ("name: a\nplan: {folds: 9}", "less than or equal to 5"),
    ("name: ../../etc", "name"),
    ("name: a\nfrom: 3", "from: Input should be a valid string"),
    ("name: a\norigin: run", "unknown key 'origin'"),
    ("name: a\nplan: {from: run}", "unknown key 'plan.from', did you mean 'from'?"),
    ("name: a\nfrom: run\nplan: {race: true}", "from and plan.race together"),
    ("name: a\nfrom: run\nnetworks: [unet]", "from and networks together"),
    ("description: no name", "name: Field required"),
    ("- a list", "a list"),
    ("name: a\nname: b", "'name' twice, again in line 2"),
    ("name: a\nplan:\n  seed: 1\n  budget: 5m\n  seed: 2", "'seed' twice, again in line 5"),
    ("name: [a", "line 1"),
])
def test_wrong_recipes_are_refused_with_the_remedy(tmp_path, text, hint):
    with pytest.raises(PlanError) as caught:
        load_recipe(write(tmp_path, text))
    assert hint in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="did you mean mri_3d_unet"):
        load_recipe("mri3d_unet")


def test_relative_paths_count_from_the_recipe(tmp_path):
    text = ("name: a\ndata: set/cases.csv\nout: run\nfrom: old\npredict: {inputs: [new, /abs/x.tif]}\n"
            "evaluate: {truth: truth}")
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.data == str(tmp_path / "set/cases.csv")
    assert recipe.out == "run"
    assert recipe.origin == str(tmp_path / "old")
    assert recipe.predict.inputs == (str(tmp_path / "new"), str(Path("/abs/x.tif")))
    assert recipe.evaluate.truth == str(tmp_path / "truth")
    globs = load_recipe(write(tmp_path, 'name: a\ndata: "i/*.tif::l/*.tif"'))
    assert globs.data == f"{tmp_path / 'i/*.tif'}::{tmp_path / 'l/*.tif'}"


def test_the_command_line_wins_and_is_checked():
    recipe = Recipe.from_data({"name": "a", "data": "x", "plan": {"budget": "5m", "seed": 3}})
    changed = recipe.changed(data="y", budget="9m")
    assert (changed.data, changed.plan.budget, changed.plan.seed) == ("y", "9m", 3)
    assert (recipe.data, recipe.plan.budget) == ("x", "5m")
    assert recipe.changed(origin="run").origin == "run"
    with pytest.raises(OptionError, match="--from with recipe b"):
        Recipe.from_data({"name": "b", "networks": ["unet"]}).changed(origin="run")
    with pytest.raises(OptionError, match="15m"):
        recipe.changed(budget="soon")


def test_only_the_safe_loader_is_named():
    """The source uses no other entry into yaml than the safe ones."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert "yaml.load(" not in source
    assert "Loader=yaml.SafeLoader" in source
