"""What a wheel holds, and what napari finds in an installation."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the source tree, so that nothing is left in the tree itself."""
    if not shutil.which("uv"):
        pytest.skip("uv, which builds the wheel, is not on PATH")
    source = tmp_path_factory.mktemp("source") / "biosegkit"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "tests", "benchmarks", "docs", "uv.lock", "biosegkit-demo"))
    built = source.parent / "dist"
    command = ["uv", "build", "--wheel", "--out-dir", str(built), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = built.glob("biosegkit-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_every_module_and_no_test(wheel):
    names = set(wheel.namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "biosegkit").rglob("*.py")}
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "biosegkit", "biosegkit_napari", "biosegkit_pipelines", "biosegkit_samples"}
    assert not [name for name in names if name.endswith((".nbi", ".nbc", ".pyc"))]


def test_the_wheel_holds_what_is_not_code(wheel):
    names = wheel.namelist()
    assert {"biosegkit/py.typed", "biosegkit/templates/report.html", "biosegkit_napari/napari.yaml",
            "biosegkit_samples/generate.py"} <= set(names)
    for folder, kept in (("pipelines", "*.yaml"), ("sample_data/phantom", "**/*.nii.gz")):
        here = [p.relative_to(ROOT).as_posix() for p in (ROOT / folder).glob(kept)]
        assert here
        package = folder.partition("/")[0]
        installed = {"pipelines": "biosegkit_pipelines", "sample_data": "biosegkit_samples"}[package]
        assert {p.replace(package, installed, 1) for p in here} <= set(names)


def test_the_wheel_states_licence_command_and_plugin(wheel):
    (home,) = {name.split("/")[0] for name in wheel.namelist() if name.endswith(".dist-info/METADATA")}
    about = HeaderParser().parsestr(wheel.read(f"{home}/METADATA").decode())
    assert about["License-Expression"] == "BSD-3-Clause"
    assert wheel.read(f"{home}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "Framework :: napari" in about.get_all("Classifier")
    points = wheel.read(f"{home}/entry_points.txt").decode()
    assert "biosegkit = biosegkit.cli:main" in points
    assert "biosegkit = biosegkit_napari:napari.yaml" in points


def test_no_viewer_is_required(wheel):
    (home,) = {name.split("/")[0] for name in wheel.namelist() if name.endswith(".dist-info/METADATA")}
    about = HeaderParser().parsestr(wheel.read(f"{home}/METADATA").decode())
    plain = [line.lower() for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert plain
    assert not [line for line in plain if line.startswith(("napari", "pyqt", "pyside"))]


def test_napari_finds_a_valid_manifest():
    npe2 = pytest.importorskip("npe2", reason="npe2, of the napari extra, is not installed")
    manifest = npe2.PluginManifest.from_file(ROOT / "napari_plugin" / "napari.yaml")
    assert (manifest.name, manifest.display_name) == ("biosegkit", "biosegkit")
    found = npe2.PluginManifest.from_distribution("biosegkit")
    assert found.name == manifest.name
    assert found.package_version == "0.1.0"
