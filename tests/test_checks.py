"""checks: order, refusal, streaming and the codes given to what readers say."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

import biosegkit as bsk
from biosegkit._console import problem_table
from biosegkit.cases import Description, scan
from biosegkit.checks import check_case, compare, diagnose, refuse, task_of, visit
from biosegkit.errors import DataError, Problem
from biosegkit.grid import Grid


def write(root: Path, count: int, side: int = 16, broken: tuple[int, ...] = ()) -> Path:
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 250, (side, side)).astype(np.uint8)
        labels = np.zeros((side, side), np.uint8)
        labels[2:6, 2:6], labels[8:12, 8:12] = 1, 2
        for folder, array in (("images", image), ("labels", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / folder / f"{i:03d}.tif", array)
        if i in broken:
            (root / f"labels/{i:03d}.tif").write_bytes(b"II*\0 no tiff")
    return root


def test_a_good_data_set_has_no_errors_and_refuse_lets_it_pass(tmp_path):
    problems = diagnose(scan(write(tmp_path, 3), describe=Description(pixel_size=0.5)))
    assert problems == []
    refuse(problems)


def test_errors_come_first_and_every_case_is_visited(tmp_path):
    dataset = scan(write(tmp_path, 5, broken=(1, 3)))
    steps = []
    problems = diagnose(dataset, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 5) for i in range(1, 6)]
    assert [(p.severity, p.case) for p in problems[:2]] == [("error", "001"), ("error", "003")]
    assert {p.severity for p in problems[2:]} == {"warning"}
    with pytest.raises(DataError, match=r"(?s)2 problem.*001\.tif.*003\.tif") as caught:
        refuse(problems)
    assert "G6" not in str(caught.value)


def test_every_problem_says_file_found_and_remedy(tmp_path):
    problems = diagnose(scan(write(tmp_path, 3, broken=(0,))))
    assert {p.severity for p in problems} == {"error", "warning"}
    for problem in problems:
        assert problem.file
        assert problem.found
        assert problem.remedy


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1:]


def looped(data: bytes) -> bytes:
    """A TIFF whose first page is followed by itself."""
    page, = struct.unpack_from("<I", data, 4)
    following = page + 2 + 12 * struct.unpack_from("<H", data, page)[0]
    return data[:following] + data[4:8] + data[following + 4:]


@pytest.mark.parametrize(("name", "spoil", "code"), [
    ("a.nii.gz", cut, "F1"), ("a.nii.gz", flipped, "F2"), ("a.tif", cut, "F1"), ("a.tif", looped, "F6"),
    ("a.png", cut, "F1"), ("a.png", flipped, "F2"), ("a.nii.gz", lambda data: b"", "F4"),
    ("a.nii.gz", gzip.decompress, "F4")])
def test_damage_is_called_by_its_row_of_the_fault_list(tmp_path, name, spoil, code):
    rng = np.random.default_rng(0)
    for folder, array in (("images", rng.integers(0, 255, (64, 64))), ("labels", np.eye(64))):
        (tmp_path / folder).mkdir()
        grid, array = Grid.regular((64, 64), 1, "mm"), array.astype(np.uint8)
        bsk.write(bsk.Image(array[None], grid), tmp_path / folder / name)
    image = tmp_path / "images" / name
    image.write_bytes(spoil(image.read_bytes()))
    problem = next(p for p in diagnose(scan(tmp_path)) if p.severity == "error")
    assert problem.code == code, problem.found


def test_check_case_equals_the_doctors_findings_on_that_case(tmp_path):
    dataset = scan(write(tmp_path, 4, broken=(2,)))
    alone = [p for case in dataset for p in check_case(dataset, case)]
    assert [p for p in diagnose(dataset) if p.case] == alone


def test_a_visit_keeps_nothing_of_a_bad_case(tmp_path):
    dataset = scan(write(tmp_path, 2, broken=(1,)))
    good, bad = (visit(dataset, c) for c in dataset)
    assert good.image.grid.shape == (16, 16)
    assert good.voxels == (16 * 16 - 32, 16, 16)
    assert (bad.image, bad.labels, bad.facts) == (None, None, None)


def test_memory_follows_one_case_not_their_number(tmp_path):
    dataset = scan(write(tmp_path, 24, side=256))
    diagnose(dataset[:2])

    def peak(part) -> int:
        tracemalloc.start()
        diagnose(part)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(dataset) < 1.3 * peak(dataset[:4]) + 100_000


def test_the_task_is_asked_described_or_found(tmp_path):
    dataset = scan(write(tmp_path, 3))
    facts = [visit(dataset, c).facts for c in dataset]
    assert task_of(dataset, facts) == ("semantic", "every case has 2 ids, so values name classes")
    assert task_of(dataset, facts, "instance") == ("instance", "as asked for")
    told = scan(tmp_path, describe=Description(task="instance"))
    assert task_of(told, facts) == ("instance", "as described")
    assert task_of(scan(tmp_path, describe=Description(labels={"a": 1, "b": 2})), facts)[1].startswith("classes are")


def test_masks_per_object_are_instances(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels/a").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "images/a.tif", np.arange(64, dtype=np.uint8).reshape(8, 8))
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 255
    tifffile.imwrite(tmp_path / "labels/a/1.tif", mask)
    dataset = scan(tmp_path)
    assert task_of(dataset, [visit(dataset, c).facts for c in dataset]) == ("instance", "one mask file per object")


def test_unlike_channel_names_warn_and_exchanged_ones_are_refused(tmp_path):
    dataset = scan(write(tmp_path, 2))
    first, second = (visit(dataset, c).facts for c in dataset)
    from dataclasses import replace

    def severity(*names):
        found = compare(dataset, [replace(f, channels=n) for f, n in zip((first, second), names, strict=True)])
        return [p.severity for p in found if p.code == "D2"]

    assert severity(("a", "b"), ("a", "b")) == []
    assert severity(("a", "b"), ("a", "c")) == ["warning"]
    assert severity(("a", "b"), ("b", "a")) == ["error"]


def test_refuse_accepts_warnings():
    refuse([Problem("V4", "warning", "a", "a.tif", "x", "y", "z")])


def test_masks_of_one_value_as_objects_are_one_warning(tmp_path):
    write(tmp_path, 3)
    for i in range(3):
        labels = np.zeros((16, 16), np.uint8)
        labels[2:6, 2:6] = labels[8:12, 8:12] = 255
        tifffile.imwrite(tmp_path / f"labels/{i:03d}.tif", labels)
    problem, = (p for p in diagnose(scan(tmp_path, describe=Description(task="instance"))) if p.code == "L10")
    assert "one id, 255, in several pieces in 3 of 3 cases" in problem.found
    assert "--task semantic" in problem.remedy


def test_many_warnings_that_say_the_same_are_cut_and_errors_are_not(capsys):
    same = [Problem("L7", "warning", str(i), f"{i}.tif", "no foreground", "", "look") for i in range(7)]
    wrong = [Problem("L4", "error", str(i), f"e{i}.tif", "negative label values [-1]", "", "--map -1=0")
             for i in range(7)]
    problem_table([*same, *wrong, *same[:2]])
    told = capsys.readouterr().out
    assert [told.count(f"e{i}.tif") for i in range(7)] == [1] * 7
    assert told.count("no foreground") == 3
    assert "and 6 cases more like these: doctor --verbose lists all" in told
    problem_table(same, whole=True)
    assert capsys.readouterr().out.count("no foreground") == 7


def test_planes_at_an_unknown_distance_are_told(tmp_path):
    for folder, kind in (("images", np.uint16), ("labels", np.uint8)):
        (tmp_path / folder).mkdir()
        stack = np.zeros((5, 8, 9), kind)
        stack[1:3, 2:5, 2:5] = 1
        tifffile.imwrite(tmp_path / folder / "a.tif", stack, metadata={"axes": "ZYX"})
    assert any("distance of the planes" in p.found and p.code == "G6"
               for p in diagnose(scan(tmp_path, describe=Description(pixel_size=0.5))))
    remedies = [p.remedy for p in diagnose(scan(tmp_path)) if p.code == "G6"]
    assert any("--spacing Z,Y,X" in r for r in remedies)
    stated = scan(tmp_path, describe=Description(spacing=(2, 1, 1), unit="um"))
    assert not [p for p in diagnose(stated) if p.code == "G6"]
