"""What README and pages say can be done: the starts are run, commands, options, links and tests named must exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from pyramids import halves, subifds, tissue
from typer.main import get_command
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md"),
                *(ROOT / "pipelines").glob("*.md"), *(ROOT / "sample_data").glob("*.md")])
VERBS = get_command(app).commands


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def labelled(seed: int) -> tuple[bsk.Image, bsk.Labels]:
    """Bright discs on noise, one id each."""
    rng = np.random.default_rng([seed])
    y, x = np.ogrid[:64, :64]
    values = np.zeros((64, 64), np.uint8)
    for number, centre in enumerate(rng.permutation(16)[: 3 + 5 * seed % 13], 1):
        row, column = divmod(int(centre), 4)
        values[(y - 8 - 16 * row) ** 2 + (x - 8 - 16 * column) ** 2 < 40] = number
    grid = bsk.Grid.regular((64, 64), 0.5, "um")
    pixels = (90 * (values > 0) + rng.normal(60, 9, values.shape)).astype(np.uint8)
    return bsk.Image(pixels[None], grid), bsk.Labels.from_values(values, grid, "instance")


@pytest.fixture
def beginner(tmp_path, monkeypatch) -> Path:
    """A folder with ``dataset/``, ``new.tif`` and ``truth/new.tif``, where the README's reader stands."""
    for folder in ("dataset/images", "dataset/labels", "truth"):
        (tmp_path / folder).mkdir(parents=True)
    for seed in range(6):
        image, labels = labelled(seed)
        bsk.write(image, tmp_path / f"dataset/images/{seed}.tif")
        bsk.write(labels, tmp_path / f"dataset/labels/{seed}.tif")
    image, labels = labelled(6)
    bsk.write(image, tmp_path / "new.tif")
    bsk.write(labels, tmp_path / "truth/new.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_start_from_python_runs(beginner, capsys):
    (start,) = blocks(ROOT / "README.md", "python")
    assert len(start.strip().splitlines()) <= 10
    assert start.count('budget="15m"') == 1
    names: dict = {}
    exec(start.replace('budget="15m"', "steps=2"), names)
    assert names["plan"].labels.task == "instance"
    assert 0 <= names["score"]["headline"]["ap@0.50"] <= 1
    assert bsk.read_labels("new_labels.tif", "instance").array.shape == (64, 64)
    assert "network: " in capsys.readouterr().out


def test_the_start_from_the_command_line_runs(beginner):
    (start,) = [b for b in blocks(ROOT / "README.md", "sh") if "biosegkit doctor" in b]
    lines = [shlex.split(line, comments=True) for line in start.strip().splitlines()]
    assert [line[1] for line in lines] == ["doctor", "train", "predict", "evaluate"]
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(shlex.join(line[1:]).replace("--budget 15m", "--steps 2")))
        assert done.exit_code == 0, f"{line}\n{done.output}"
    assert (beginner / "run/report.html").is_file()
    assert (beginner / "segmented/new.tif").is_file()


@pytest.mark.parametrize("page", ["engines", "outputs", "reading"])
def test_the_python_of_a_page_runs(beginner, page):
    (code,) = blocks(ROOT / f"docs/{page}.md", "python")
    (beginner / "corrected.tif").write_bytes((beginner / "truth/new.tif").read_bytes())
    subifds(beginner / "a.svs", halves(tissue((500, 600)), 2), photometric="rgb")
    names: dict = {}
    exec(code, names)
    if page == "outputs":
        assert {"new.tif", "new.csv", "new.geojson", "new_rois.zip", "corrected.geojson"} <= {
            path.name for path in (beginner / "out").iterdir()}
    elif page == "engines":
        assert len(np.unique(names["labels"].array)) > 2
    else:
        assert [grid.spacing[0] for grid in names["slide"].grids] == pytest.approx([0.25, 0.5, 1.0])


def commands(page: Path) -> list[list[str]]:
    """Every ``biosegkit VERB …`` in code, as words."""
    text = page.read_text("utf-8")
    code = re.findall(r"^(?:    |\$ )*(?:uv run )?(biosegkit [a-z].*)$", text, re.M)
    code += re.findall(r"`(?:uv run )?(biosegkit [a-z][^`]*)`", text)
    code += re.findall(r"&& uv run (biosegkit .*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in code]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page):
    for words in commands(page):
        verb = words[1].rstrip(",.:;")
        assert verb in VERBS, words
        known = {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
        named = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert named <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_in_tables_exist(page):
    known = {option for verb in VERBS.values() for parameter in verb.params for option in parameter.opts}
    known |= {"--extra", "--data", "--results", "--write", "--keep", "--version", "--help"}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text("utf-8")))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_commands_see_the_pages():
    assert len(commands(ROOT / "README.md")) >= 6
    assert len(PAGES) >= 8


def fault_tests() -> dict[str, set[str]]:
    """Fault id → names of the tests that carry it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^ *def (test_(?:[VGLDFPSX]\d+_)+\w*)", path.read_text("utf-8"), re.M):
            for fault in re.findall(r"(?<=_)[VGLDFPSX]\d+(?=_)", re.match(r"test(?:_[VGLDFPSX]\d+)+_", name)[0]):
                found.setdefault(fault, set()).add(name)
    return found


def test_the_table_of_faults_is_that_of_the_tests():
    tests = fault_tests()
    rows = re.findall(r"^\| ([VGLDFPSX]\d+) \|.*\| (.*) \|$", (ROOT / "docs/faults.md").read_text("utf-8"), re.M)
    assert len(tests) > 40
    assert sorted(tests) == sorted(fault for fault, _ in rows)
    for fault, cell in rows:
        named = set(re.findall(r"`(\w+)`", cell))
        assert named, fault
        assert {f"test_{fault}_{name}" for name in named} <= tests[fault], fault
