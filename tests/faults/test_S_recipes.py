"""S7: YAML is data. No objects, no alias bombs, no huge files."""

from __future__ import annotations

import pytest

from biosegkit.errors import FileError, PlanError
from biosegkit.recipe import load_recipe


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [
    "name: !!python/object/apply:os.system ['touch owned']",
    "!!python/object/new:subprocess.Popen [[touch, owned]]",
    "name: !!python/name:os.system",
])
def test_S7_yaml_makes_no_objects(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError):
        load_recipe(write(tmp_path, text))
    assert not (tmp_path / "owned").exists()


def test_S7_a_bomb_of_aliases_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(PlanError, match="alias"):
        load_recipe(write(tmp_path, "\n".join(lines)))


def test_S7_a_huge_recipe_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(FileError, match="at most"):
        load_recipe(write(tmp_path, "name: a\ndescription: " + "x" * (1 << 20)))
