"""The benchmark scripts: what they measure is what happened, and the README's table is made of the records."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from biosegkit.plan.preferences import METHOD_NAMES

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def record() -> dict:
    return {"name": "nuclei", "what": "2D nuclei", "budget": "15m", "cases": 3, "scores": {"f1": 0.91249},
            "classes": {"a": 0.5, "b": 0.25}, "train": {"seconds": 871.6, "peak_bytes": 3 * 2**30},
            "predict": {"seconds": 3.0, "peak_bytes": 2**29}, "machine": "2 cores, x86_64", "device": "cpu",
            "date": "2026-01-01"}


def test_a_record_becomes_a_row(record):
    assert script("table").row(record) == (
        "| 2D nuclei (`nuclei`, 3 images) | 15m | f1 0.912 (a 0.500, b 0.250) | 14 min 32 s | 2 | 3.0 GB / 0.5 GB | "
        "2026-01-01 |")


def test_the_table_replaces_what_stands_between_the_marks(record, tmp_path, monkeypatch):
    table = script("table")
    (tmp_path / "nuclei-15m.json").write_text(json.dumps(record))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(sys, "argv", ["table.py", "--results", str(tmp_path), "--write"])
    table.main()
    table.main()
    text = readme.read_text()
    assert text.startswith(f"before\n{table.START}\n| data")
    assert text.endswith(f"{table.END}\nafter\n")
    assert text.count("14 min 32 s") == 1
    assert "old" not in text


def test_the_readme_has_the_marks_of_the_tables():
    table, readme = script("table"), (BENCHMARKS.parent / "README.md").read_text("utf-8")
    for start, end in ((table.START, table.END), table.ARCHITECTURES):
        assert readme.count(start) == readme.count(end) == 1
        assert readme.index(start) < readme.index(end)


def compared(network: str, dice: float, **changes) -> dict:
    return {"network": network, "scores": {"dice": dice, "hd95": 2.0}, "intervals": {"dice": [dice - 0.1, dice + 0.05]},
            "step_seconds": 0.25, "folds": 1, "steps": 900, "parameters": 1234567, "machine": "1 core, x86_64",
            "device": "cpu", "date": "2026-01-01", **changes}


def test_networks_become_rows_and_a_new_one_takes_the_place_of_its_old(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    architectures, path = script("architectures"), tmp_path / "architectures-em.json"
    about = {"kind": "architectures", "name": "em", "what": "EM", "limit": "5m", "unit": "px", "cases": 4}
    for row in (compared("unetplusplus", 0.5), compared("unet", 0.8), compared("unetplusplus", 0.7, folds=3)):
        path.write_text(json.dumps(architectures.merged(path, about, row)))
    found = json.loads(path.read_text())
    assert [(row["network"], row["scores"]["dice"]) for row in found["rows"]] == [("unet", 0.8), ("unetplusplus", 0.7)]
    lines = script("table").architectures([found]).splitlines()
    assert lines[2] == ("| `em`, 4 images | 5m | `unet` | 0.800 (0.700 to 0.850) | 2.000 px | 0.250 | 900 | 1.23 M |")
    assert "| 3 × 900 |" in lines[3]
    other = architectures.merged(path, about | {"limit": "9m"}, compared("fcn", 0.1))
    assert [row["network"] for row in other["rows"]] == ["fcn"]


def test_memory_of_children_counts():
    accuracy = script("accuracy")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytearray(200_000_000); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        watched, seen, deadline = psutil.Process(child.pid), 0, time.monotonic() + 60
        while seen < 200_000_000 and time.monotonic() < deadline:
            seen = accuracy.resident(watched)
            time.sleep(0.02)
        child.communicate(os.linesep.encode())
    assert seen >= 200_000_000
    assert accuracy.resident(watched) == 0


def test_the_final_rate_is_a_share_of_the_highest(tmp_path):
    for fold, rates in enumerate(([1.0, 4.0, 0.0], [1.0, 4.0, 1.0])):
        (tmp_path / f"fold-{fold}").mkdir()
        rows = [{"step": i, "lr": rate} for i, rate in enumerate(rates)] + [{"step": 3, "dice": 0.5}]
        (tmp_path / f"fold-{fold}/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert script("accuracy").final_rate(tmp_path) == 0.25


def test_shapes_of_the_oracles_are_what_they_are_called():
    oracles = script("oracles")
    for ndim in (2, 3):
        made = oracles.shapes(ndim)
        sizes = {name: np.bincount(labels.ravel())[1:] for name, (labels, _) in made.items()}
        assert all((found > 0).all() for found in sizes.values())  # ids 1 … n, none covered by another
        assert set(sizes["radius 2"]) == {13 if ndim == 2 else 33}
        assert sizes["the whole frame"].tolist() == [made["the whole frame"][0].size]
        rods = sizes["rods 4 × 40"]
        assert len(rods) % 3 == 0
        assert np.allclose(rods, 4 ** (ndim - 1) * 40, rtol=0.25)
        touching = made["touching, radius 8"][0]
        pairs = zip(np.moveaxis(touching, -1, 0)[:-1], np.moveaxis(touching, -1, 0)[1:], strict=True)
        assert any(((a > 0) & (b > 0) & (a != b)).any() for a, b in pairs)


def test_a_round_trip_is_scored_and_the_page_has_every_method():
    oracles = script("oracles")
    labels, spacing = oracles.shapes(2)["radius 2"]
    cell = oracles.scored("distance", labels, spacing, oracles.objects_of(labels, spacing))
    assert (cell["ap"], cell["objects"]) == ([1.0, 1.0, 1.0], labels.max())
    rows = {"distance": {"a": cell, "b": cell | {"ap": [1.0, 0.5, 0.25]}}}
    assert oracles.table(rows, 2)[2].startswith("| `distance` | 1.00 | 1.00 / 0.50 / 0.25 | ")
    page = oracles.PAGE.read_text("utf-8")
    assert oracles.written(page, "new").count("new\n") == 1
    record = json.loads(oracles.RECORD.read_text("utf-8"))["rows"]
    assert all("\n".join(oracles.table(record[str(ndim)], ndim)) in page for ndim in (2, 3))
    assert all(f"| `{name}` |" in page for name in METHOD_NAMES if name != "semantic")


@pytest.mark.parametrize(("shape", "patch", "corner"), [((64, 64, 64), 32, 1.0), ((256, 256), 128, 8 / 19)])
def test_sums_in_half_precision_round_logits_in_corners(shape, patch, corner):
    """One step of half precision in a 3D corner makes logits of 0.6 ones, 19 steps in 2D make 0.4 8 / 19."""
    sliding = script("sliding_window")

    def network(x):
        return {"classes": torch.full((1, 1, *x.shape[2:]), 0.4 if len(shape) == 2 else 0.6)}

    lattice = sliding.Lattice(shape, (patch,) * len(shape), (patch // 2,) * len(shape))
    found = sliding.halved(network, np.zeros(shape, np.float32), lattice)[0].double()
    value = 0.4 if len(shape) == 2 else 0.6
    assert found[(0,) * len(shape)] == pytest.approx(corner, abs=2e-4)
    assert found[tuple(n // 2 for n in shape)] == pytest.approx(value, abs=2e-3)
    exact = sliding.naive(network, np.zeros(shape, np.float32), lattice, sliding.windows(lattice)["ours"])
    assert float((exact - value).abs().max()) < 1e-6


def test_the_sliding_window_benchmark_paints_the_class_of_the_largest_logit():
    sliding = script("sliding_window")
    torch.manual_seed(0)
    network, lattice = sliding.Cheap(2, 3).eval(), sliding.Lattice((40, 50), (16, 16), (8, 8))
    image = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    with torch.inference_mode():
        best = network(torch.from_numpy(image[None, None]))["classes"][0].argmax(0).numpy()
        assert np.array_equal(sliding.ours_labels(network, image, lattice, 3), best)
    assert len(np.unique(best)) > 1
