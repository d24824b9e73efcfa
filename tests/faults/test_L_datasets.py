"""Label faults L1 to L10 as the doctor and the fingerprint see them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from biosegkit.cases import Description, scan
from biosegkit.checks import check_case, diagnose
from biosegkit.errors import DataError
from biosegkit.fingerprint import measure, survey


def write(root: Path, labels: dict[str, np.ndarray]) -> Path:
    for i, (name, array) in enumerate(labels.items()):
        for folder, data in (("images", np.random.default_rng(i).integers(1, 99, array.shape).astype(np.uint8)),
                             ("labels", array)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / folder / f"{name}.tif", data)
    return root


def square(*values: int, dtype=np.uint8, side: int = 24) -> np.ndarray:
    """One 3 × 3 square per value, apart from each other."""
    array = np.zeros((side, side), dtype)
    for i, value in enumerate(values):
        y, x = divmod(i, side // 5)
        array[5 * y : 5 * y + 3, 5 * x : 5 * x + 3] = value
    return array


def found(root: Path, code: str, **describe) -> list:
    return [p for p in diagnose(scan(root, describe=Description.from_data(describe))) if p.code == code]


def test_L1_large_and_sparse_ids_are_objects(tmp_path):
    sets = [[70000 * k + 7 * i for i in range(1, n)] for k, n in enumerate((4, 6, 9), 1)]
    write(tmp_path, {str(i): square(*v, dtype=np.uint32) for i, v in enumerate(sets)})
    fingerprint = measure(scan(tmp_path))
    assert fingerprint.task == "instance"
    assert fingerprint.objects.count == 3 + 5 + 8
    assert [c.ids for c in fingerprint.cases] == [3, 5, 8]


def test_L3_fractional_labels_are_refused_and_whole_floats_are_not(tmp_path):
    write(tmp_path, {"a": square(1).astype(np.float32) * 0.4, "b": square(1).astype(np.float32)})
    problem, = found(tmp_path, "L3")
    assert (problem.severity, problem.case) == ("error", "a")
    assert "9 fractional" in problem.found


def test_L4_negative_labels_are_refused_with_a_mapping(tmp_path):
    write(tmp_path, {"a": square(1).astype(np.int16) - 1})
    problem, = found(tmp_path, "L4")
    assert (problem.severity, problem.remedy) == ("error", "--map -1=0")
    assert not found(tmp_path, "L4", map={-1: 0, 0: 1})


def test_L5_masks_of_255_are_accepted(tmp_path):
    write(tmp_path, {n: square(255) for n in "ab"})
    fingerprint = measure(scan(tmp_path))
    assert [(c.value, c.voxels, c.cases) for c in fingerprint.classes] == [(255, 18, 2)]


def test_L5_values_that_are_not_named_are_listed(tmp_path):
    write(tmp_path, {"a": square(1, 2), "b": square(1, 7, 9)})
    problem, = found(tmp_path, "L5", labels={"background": 0, "x": 1, "y": 2})
    assert (problem.severity, problem.case, problem.found) == ("error", "b", "label values 7, 9")
    assert "[0, 1, 2]" in problem.expected
    assert not found(tmp_path, "L5", labels={"background": 0, "x": 1, "y": 2}, map={7: 2, 9: 1})


def test_L5_thousands_of_classes_are_no_classes(tmp_path):
    many = np.zeros((160, 160), np.uint16)
    many[::2, ::2] = np.arange(1, 6401).reshape(80, 80)
    write(tmp_path, {"a": many})
    problem, = found(tmp_path, "L5", task="semantic")
    assert (problem.severity, problem.found) == ("error", "6400 different label values")


def test_L6_gaps_in_class_numbers_are_accepted(tmp_path):
    write(tmp_path, {n: square(3, 200) for n in "ab"})
    fingerprint = measure(scan(tmp_path, describe=Description(labels={"a": 3, "b": 200, "c": 201})))
    assert [(c.name, c.value, c.voxels, c.cases) for c in fingerprint.classes] == [
        ("a", 3, 18, 2), ("b", 200, 18, 2), ("c", 201, 0, 0)]


def test_L7_a_case_without_foreground_is_told_and_statistics_come_from_the_rest(tmp_path):
    write(tmp_path, {"a": square(1), "b": square()})
    problem, = found(tmp_path, "L7")
    assert (problem.severity, problem.case) == ("warning", "b")
    image = tifffile.imread(tmp_path / "images/a.tif")
    fingerprint = measure(scan(tmp_path))
    inside = image[square(1) > 0]
    assert (fingerprint.channels[0].minimum, fingerprint.channels[0].maximum) == (inside.min(), inside.max())


def test_L7_a_data_set_without_any_foreground_is_refused(tmp_path):
    write(tmp_path, {"a": square(), "b": square()})
    assert [p.severity for p in found(tmp_path, "L7")] == ["error", "warning", "warning"]
    with pytest.raises(DataError, match="no foreground in any case"):
        measure(scan(tmp_path))


def test_L9_ignored_voxels_are_in_no_statistic(tmp_path):
    labels = square(1, 9)
    write(tmp_path, {"a": labels})
    image = tifffile.imread(tmp_path / "images/a.tif")
    image[labels == 9] = 255
    tifffile.imwrite(tmp_path / "images/a.tif", image)
    fingerprint = measure(scan(tmp_path, describe=Description(ignore=9)))
    assert [(c.value, c.voxels) for c in fingerprint.classes] == [(1, 9)]
    assert fingerprint.channels[0].maximum == image[labels == 1].max() < 255
    assert fingerprint.foreground == pytest.approx(9 / (24 * 24 - 9))
    assert fingerprint.ignore_value == 9


def test_L10_split_and_one_voxel_objects_are_counted_for_instances_only(tmp_path):
    array = square(1, 2, 3)
    array[20:22, 20:22] = 2
    array[23, 0] = 4
    write(tmp_path, {"a": array})
    dataset = scan(tmp_path)
    assert not check_case(dataset, dataset[0])
    problem = next(p for p in check_case(dataset, dataset[0], "instance") if p.code == "L10")
    assert (problem.severity, problem.found) == ("warning", "1 of 4 ids in several pieces; 1 object of one voxel")
    assert not found(tmp_path, "L10", task="semantic")
    assert len(found(tmp_path, "L10", task="instance")) == 1


def test_L10_pieces_that_meet_at_a_corner_are_one(tmp_path):
    array = np.zeros((8, 8), np.uint8)
    array[1:3, 1:3] = array[3:5, 3:5] = 1
    write(tmp_path, {"a": array})
    dataset = scan(tmp_path)
    assert not [p for p in check_case(dataset, dataset[0], "instance") if p.code == "L10"]


@pytest.mark.parametrize(("counts", "asked", "told"), [
    ((6, 7, 8, 6), None, True), ((6, 7, 8, 6), "semantic", False), ((6, 7, 8, 6), "instance", False),
    ((3, 3, 3, 3), None, False)])
def test_L10_classes_that_may_be_numbered_objects_are_told(tmp_path, counts, asked, told):
    """Six to eight nuclei in every image look like eight organs of which some are missing."""
    for i, count in enumerate(counts):
        labels = np.zeros((40, 40), np.uint8)
        for k in range(count):
            labels[2 + 10 * (k // 3) : 8 + 10 * (k // 3), 2 + 12 * (k % 3) : 8 + 12 * (k % 3)] = k + 1
        image = labels * 20 + np.random.default_rng(i).integers(0, 9, (40, 40))
        for kind, array in (("images", image), ("labels", labels)):
            (tmp_path / kind).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / kind / f"c{i}.tif", array.astype(np.uint8))
    problems = survey(scan(tmp_path), task=asked)[0]
    assert bool([p for p in problems if "taken for classes" in p.found and "--task instance" in p.remedy]) == told


@pytest.mark.parametrize("how", ["bilinear", "jpeg", "smoothed"])
def test_L11_masks_with_mixed_edges_are_told(tmp_path, how):
    """Disc masks of 0 and 255 as programs spoil them, and the same masks whole."""
    y, x = np.ogrid[:64, :64]
    masks = {str(k): (((y - 20 - 3 * k) ** 2 + (x - 30) ** 2 < 200) * 255).astype(np.uint8) for k in range(3)}
    assert not found(write(tmp_path / "whole", masks), "L11")
    spoilt = {}
    for name, mask in masks.items():
        picture = Image.fromarray(mask)
        if how == "bilinear":
            picture = picture.resize((101, 101), Image.Resampling.BILINEAR)
        elif how == "smoothed":
            picture = picture.filter(ImageFilter.GaussianBlur(1))
        else:
            stream = io.BytesIO()
            picture.save(stream, "jpeg", quality=75)
            picture = Image.open(stream)
        spoilt[name] = np.asarray(picture)
    problem, = found(write(tmp_path / "spoilt", spoilt), "L11", task="semantic")
    assert problem.severity == "warning"
    assert "in 3 of 3 cases" in problem.found


def test_L11_classes_some_of_which_are_lines_are_not_taken_for_mixed(tmp_path):
    array = np.zeros((40, 40), np.uint8)
    for value in range(1, 7):  # six blocks, and three lines one voxel wide between them
        array[5 * value:5 * value + 4, 4:30] = value
    array[9, 4:30], array[14, 4:30], array[19, 4:30] = 7, 8, 9
    assert not found(write(tmp_path, {"a": array, "b": array}), "L11", task="semantic")
