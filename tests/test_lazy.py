"""The one door for optional packages."""

import pytest

from biosegkit._lazy import optional
from biosegkit.errors import OptionError


@pytest.mark.parametrize(("name", "extra"), [
    ("napari", "napari"), ("cellpose.models", "cellpose"), ("no_such_package_at_all", "all")])
def test_a_missing_package_names_the_extra_to_install(monkeypatch, name, extra):
    monkeypatch.setitem(__import__("sys").modules, name.split(".")[0], None)
    monkeypatch.setattr("importlib.import_module", _missing)
    with pytest.raises(OptionError, match=rf"biosegkit\[{extra}\]"):
        optional(name)


def _missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])


def test_what_is_missing_inside_a_package_is_not_blamed_on_the_package(tmp_path, monkeypatch):
    (tmp_path / "half_a_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        optional("half_a_package")


def test_what_is_there_is_imported():
    assert optional("json").dumps([1]) == "[1]"
