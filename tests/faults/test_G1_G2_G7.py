"""Faults G1, G2, G3, G6, G7 as the doctor sees them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from stub_models import stub_plan

from biosegkit.cases import Description, scan
from biosegkit.checks import check_case, diagnose
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.prepared import prepare


def nifti(path: Path, shape=(8, 9, 7), spacing=(1.0, 1.0, 2.0), shift=0.0, labels: bool = False, seed: int = 0,
          turn: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[0, 3] = shift
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if labels:
        array = (array > 0.5).astype(np.uint8)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def pair(root: Path, name: str, seed: int = 0, image: dict | None = None, labels: dict | None = None) -> None:
    nifti(root / f"images/{name}.nii.gz", seed=seed, **(image or {}))
    nifti(root / f"labels/{name}.nii.gz", labels=True, **(labels or {}))


def found(root: Path, code: str, **describe) -> list:
    return [p for p in diagnose(scan(root, describe=Description(**describe))) if p.code == code]


def test_G1_unlike_shapes_are_refused(tmp_path):
    pair(tmp_path, "a", labels={"shape": (8, 9, 6)})
    problem, = found(tmp_path, "G1")
    assert problem.severity == "error"
    assert "(6, 9, 8)" in problem.found
    assert "(7, 9, 8)" in problem.expected


def test_G1_is_not_excused_by_trust_index(tmp_path):
    pair(tmp_path, "a", labels={"shape": (8, 9, 6)})
    assert found(tmp_path, "G1", trust_index=True)[0].severity == "error"


@pytest.mark.parametrize(("labels", "distance"), [
    # Truth by hand: origin moved by 0.01 mm at 1 mm; spacing 1.01 instead of 1 moves the eighth voxel by 0.07;
    # a turn by 0.01 about z moves the far corner by 0.01 times its lever of 8 (y) or 7 (x) voxels, here 8 at most.
    ({"shift": 0.01}, 0.01), ({"spacing": (1.01, 1.0, 2.0)}, 0.07), ({"turn": 0.01}, 0.08),
])
def test_G2_another_affine_is_refused(tmp_path, labels, distance):
    pair(tmp_path, "a", labels=labels)
    problem, = found(tmp_path, "G2")
    assert problem.severity == "error"
    assert float(problem.found.split()[1]) == pytest.approx(distance, rel=0.01)


@pytest.mark.parametrize("shift", [0.0, 0.0009])
def test_G2_rounding_is_accepted(tmp_path, shift):
    pair(tmp_path, "a", labels={"shift": shift})
    assert not found(tmp_path, "G2")


def test_G2_trust_index_overrides_and_is_recorded(tmp_path):
    pair(tmp_path, "a", labels={"shift": 3.0})
    problem, = found(tmp_path, "G2", trust_index=True)
    assert (problem.severity, "matched by index as asked" in problem.found) == ("warning", True)
    dataset = scan(tmp_path, describe=Description(trust_index=True))
    image, labels = dataset.load(dataset[0], "semantic")
    assert labels.grid == image.grid
    with pytest.raises(DataError, match="3 voxels away"):
        scan(tmp_path).load(dataset[0], "semantic")


def test_G2_labels_without_physical_size_are_matched_by_index(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, options in (("images", {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.5,
                                                                "PhysicalSizeY": 0.5}}), ("labels", {})):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", array, **options)
    problem, = found(tmp_path, "G2")
    assert (problem.severity, "matched by index" in problem.found) == ("warning", True)


def test_G3_a_repaired_header_becomes_a_warning(tmp_path):
    pair(tmp_path, "a")
    image = nib.load(tmp_path / "images/a.nii.gz")
    image.header.set_sform(image.affine, code=1)
    moved = image.affine.copy()
    moved[:3, 3] += 5
    image.header.set_qform(moved, code=1)
    image.to_filename(tmp_path / "images/a.nii.gz")
    problem, = [p for p in check_case(scan(tmp_path), scan(tmp_path)[0]) if p.code == "G3"]
    assert (problem.severity, "sform and qform differ" in problem.found) == ("warning", True)


def test_G6_missing_pixel_size_is_told_once(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for i, name in enumerate("abc"):
            array = np.random.default_rng(i).integers(0, 3, (6, 7)).astype(np.uint8)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", array)
    problem, = found(tmp_path, "G6")
    assert (problem.severity, problem.found) == ("warning", "no physical size in 3 cases")
    assert not found(tmp_path, "G6", pixel_size=0.5)


def test_G6_known_and_unknown_sizes_do_not_mix(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b", seed=1)
    for folder in ("images", "labels"):
        (tmp_path / f"{folder}/b.nii.gz").unlink()
        array = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
        tifffile.imwrite(tmp_path / folder / "b.tif", array, imagej=True, metadata={"axes": "ZYX"})
    problem = next(p for p in found(tmp_path, "G6") if p.severity == "error")
    assert "1 × [mm] (a)" in problem.found
    assert "1 × [px] (b)" in problem.found


def test_G6_spacing_that_is_no_number_is_refused_by_name(tmp_path):
    pair(tmp_path, "a")
    path = tmp_path / "images/a.nii.gz"
    image = nib.load(path)
    image.header["pixdim"][1] = np.nan
    image.header["sform_code"] = image.header["qform_code"] = 0
    image.header["vox_offset"], image.header["magic"] = 352, b"n+1"
    raw = image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).astype("<f4").tobytes(order="F")
    path.unlink()
    (tmp_path / "images/a.nii").write_bytes(raw)
    problem = next(p for p in diagnose(scan(tmp_path)) if p.severity == "error")
    assert problem.case == "a"
    assert problem.code == "G6"


def test_G7_spacing_a_thousand_times_off_is_told(tmp_path):
    for i, name in enumerate("abcd"):
        spacing = (1000.0, 1000.0, 2000.0) if name == "d" else (1.0, 1.1, 2.0)
        pair(tmp_path, name, seed=i, image={"spacing": spacing}, labels={"spacing": spacing})
    problem, = found(tmp_path, "G7")
    assert (problem.severity, problem.case) == ("warning", "d")
    assert "(2000.0, 1000.0, 1000.0)" in problem.found


@pytest.mark.parametrize(("factor", "told"), [(3.9, False), (4.1, True), (1 / 3.9, False), (1 / 4.1, True)])
def test_G7_the_limit_is_four_times_the_median(tmp_path, factor, told):
    for i, name in enumerate("abc"):
        z = 2.0 * (factor if name == "c" else 1.0)
        pair(tmp_path, name, seed=i, image={"spacing": (2.0, 2.0, z)}, labels={"spacing": (2.0, 2.0, z)})
    assert bool(found(tmp_path, "G7")) == told


def test_G6_a_model_of_pixels_and_planes_says_what_it_makes_of_a_volume_in_millimetres():
    """A model of nuclei in 2D, given an MRI: it segments, but not without a word."""
    plan = stub_plan(2, unit="px", instance=True)

    def told(shape, spacing, unit):
        grid = Grid.regular(shape, spacing, unit)
        notes = prepare(Image(np.arange(grid.voxels).reshape(1, *shape), grid), plan).notes
        return [kind for kind in ("a stack of", "no physical size", "times off") if any(kind in n for n in notes)]

    assert told((5, 16, 16), (3.0, 0.1, 0.1), "mm") == ["a stack of", "no physical size"]
    assert told((16, 16), (0.1, 0.1), "um") == ["no physical size"]
    assert told((5, 16, 16), (1.0, 1.0, 1.0), "px") == ["a stack of"]
    assert told((16, 16), (1.0, 1.0), "px") == []
    stacks = stub_plan(2, unit="mm", transpose=(0, 1, 2))  # planes of stacks
    volume = Image(np.ones((1, 5, 16, 16)), Grid.regular((5, 16, 16), 1.0, "mm"))
    assert not [n for n in prepare(volume, stacks).notes if "a stack of" in n]
