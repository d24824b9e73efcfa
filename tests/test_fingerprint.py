"""fingerprint: against numbers counted by hand, brute force and scikit-image."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from biosegkit.cases import Description, scan
from biosegkit.checks import diagnose
from biosegkit.errors import DataError, PlanError
from biosegkit.fingerprint import Fingerprint, measure, survey
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.object_shapes import anisotropy_of, sample_objects
from biosegkit.summaries import data_tables
from biosegkit.task_choice import IdCounts, choose_task, count_ids


def nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Array in (z, y, x) order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(array.T), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def volume(seed: int, shape=(6, 8, 10)) -> tuple[np.ndarray, np.ndarray]:
    """An image with a border of zeros, and labels 1 and 2 inside."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32)
    image[1:5, 2:8, 3:9] = rng.normal(100 * (seed + 1), 10, (4, 6, 6))
    labels = np.zeros(shape, np.uint8)
    labels[2:4, 3:6, 4:7], labels[4, 6, 8] = 1, 2
    return image, labels


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for i in range(4):
        image, labels = volume(i)
        nifti(tmp_path / f"images/{i}.nii.gz", image, np.diag([0.5, 0.5, 2.0, 1]))
        nifti(tmp_path / f"labels/{i}.nii.gz", labels, np.diag([0.5, 0.5, 2.0, 1]))
    return tmp_path


def test_shapes_spacings_and_crops_by_hand(volumes):
    found = measure(scan(volumes))
    first = found.cases[0]
    assert (first.shape, first.cropped, first.spacing) == ((6, 8, 10), (4, 6, 6), (2.0, 0.5, 0.5))
    assert first.relative_size == found.relative_size == pytest.approx(144 / 480)
    assert (found.unit, found.ndim, first.dtype, first.bytes) == ("mm", 3, "float32", 480 * 4)
    classes = [(c.name, c.value, c.voxels, c.cases) for c in found.classes]
    assert classes == [("class 1", 1, 72, 4), ("class 2", 2, 4, 4)]
    assert found.foreground == pytest.approx(19 / 480)
    assert found.spacings.shape == found.cropped_shapes.shape == (4, 3)
    assert (found.task, found.objects) == ("semantic", None)


def test_intensities_weigh_every_case_equally_and_only_count_foreground(volumes):
    channel, = measure(scan(volumes)).channels
    inside = [volume(i)[0][volume(i)[1] > 0].astype(float) for i in range(4)]
    every = np.concatenate(inside)
    # 250 000 draws per case of 19 voxels: errors of the mean and of percentiles are far below the tolerances.
    assert channel.mean == pytest.approx(np.mean([v.mean() for v in inside]), rel=2e-3)
    assert channel.std == pytest.approx(every.std(), rel=5e-3)
    assert (channel.minimum, channel.maximum) == (every.min(), every.max())
    assert channel.low == pytest.approx(np.percentile(every, 0.5), abs=3)
    assert channel.high == pytest.approx(np.percentile(every, 99.5), abs=3)


def test_a_small_case_counts_as_much_as_a_large_one(tmp_path):
    for name, side, value in (("small", 8, 10), ("large", 80, 110)):
        for folder, array in (("images", np.full((side, side), value, np.uint8)),
                              ("labels", np.ones((side, side), np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", array)
    channel, = measure(scan(tmp_path)).channels
    assert channel.mean == 60


def test_the_same_anatomy_in_any_orientation_gives_the_same_numbers(tmp_path):
    image, labels = volume(0)
    plain, turned = tmp_path / "plain", tmp_path / "turned"
    affine = np.diag([0.5, 0.75, 2.0, 1])
    nifti(plain / "images/a.nii.gz", image, affine)
    nifti(plain / "labels/a.nii.gz", labels, affine)
    # x reversed, then axes stored as (y, z, x): index (i, j, k) of the new file is old (x = 9 - k, y = i, z = j).
    other = affine @ np.array([[0, 0, -1, 9], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    for name, array in (("images", image), ("labels", labels)):
        nifti(turned / f"{name}/a.nii.gz", array[:, :, ::-1].transpose(2, 0, 1), other)
    one, two = measure(scan(plain)), measure(scan(turned))
    assert two.cases[0].orientation != one.cases[0].orientation
    assert two.cases[0].model_copy(update={"orientation": one.cases[0].orientation}) == one.cases[0]
    assert (two.channels, two.classes) == (one.channels, one.classes)


def test_measuring_twice_gives_the_same_bytes_and_a_seed_another_sample(volumes):
    dataset = scan(volumes)
    assert measure(dataset).hash == measure(dataset).hash
    assert measure(dataset).model_copy(update={"source": "elsewhere"}).hash == measure(dataset).hash
    assert measure(dataset).channels == measure(dataset.select([c.id for c in dataset][::-1])).channels
    assert measure(dataset, seed=1).channels != measure(dataset).channels


def test_survey_is_doctor_and_measure_in_one(volumes):
    dataset = scan(volumes)
    problems, found = survey(dataset)
    assert problems == diagnose(dataset)
    assert found == measure(dataset)
    (volumes / "labels/2.nii.gz").write_bytes(b"")
    problems, found = survey(dataset)
    assert (found, [p.case for p in problems if p.severity == "error"]) == (None, ["2"])
    with pytest.raises(DataError, match=r"2\.nii\.gz"):
        measure(dataset)


def test_test_rows_are_checked_but_not_measured(volumes):
    rows = [f"images/{i}.nii.gz,labels/{i}.nii.gz,{s}" for i, s in enumerate(("train", "val", "test", "train"))]
    (volumes / "t.csv").write_text("image,label,split\n" + "\n".join(rows))
    found = measure(scan(volumes / "t.csv"))
    assert [c.id for c in found.cases] == ["0", "1", "3"]
    assert "1 case outside" in found.notes[0]


def test_json_round_trip_and_refusals(volumes, tmp_path):
    found = measure(scan(volumes))
    found.write(tmp_path / "f.json")
    assert Fingerprint.read(tmp_path / "f.json") == found
    text = (tmp_path / "f.json").read_text()
    (tmp_path / "g.json").write_text(text.replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(PlanError, match="schema 3"):
        Fingerprint.read(tmp_path / "g.json")
    (tmp_path / "h.json").write_text(text.replace('"unit"', '"units"'))
    with pytest.raises(PlanError, match=r"no entry unit; unknown entry units \(did you mean unit\?\)"):
        Fingerprint.read(tmp_path / "h.json")


def test_a_fingerprint_of_the_first_schema_is_read_and_shown(tmp_path):
    found = measure(scan(discs([3, 5], tmp_path)), task="instance")
    assert (found.objects.solidity.median, found.objects.star_convex, found.objects.contact) == (1, 1, 0)
    assert found.objects.density == pytest.approx(1e6 * 8 / (2 * 80 * 80))
    data = found.model_dump(mode="json") | {"schema_version": 1}
    for name in ("solidity", "star_convexity", "star_convex", "contact", "density"):
        del data["objects"][name]
    (tmp_path / "old.json").write_text(json.dumps(data))
    old = Fingerprint.read(tmp_path / "old.json")
    assert (old.objects.diameter, old.objects.solidity, old.objects.contact) == (found.objects.diameter, None, None)
    assert "star-convex" in data_tables(found)[1]["title"]
    assert "star-convex" not in data_tables(old)[1]["title"]
    assert [row[0] for row in data_tables(found)[1]["rows"]][-2:] == ["solidity", "seen from its centre"]


def test_2d_keeps_two_entries_and_colours_are_known(tmp_path):
    rng = np.random.default_rng(0)
    for folder, array in (("images", rng.integers(0, 255, (9, 7, 3)).astype(np.uint8)),
                          ("labels", np.eye(9, 7, dtype=np.uint8))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", array, photometric="rgb" if array.ndim == 3 else "minisblack")
    found = measure(scan(tmp_path))
    assert (found.cases[0].shape, found.is_rgb, len(found.channels)) == ((9, 7), True, 3)
    named = measure(scan(tmp_path, describe=Description(channel_names=("a", "b", "c"))))
    assert [c.name for c in named.channels] == ["a", "b", "c"]


def discs(counts: list[int], root: Path, radius: int = 4) -> Path:
    for i, n in enumerate(counts):
        labels = np.zeros((20 * 4, 20 * 4), np.uint16)
        yy, xx = np.mgrid[:80, :80]
        for k in range(n):
            y, x = divmod(k, 4)
            labels[(yy - 20 * y - 10) ** 2 + (xx - 20 * x - 10) ** 2 <= radius**2] = k + 1
        for folder, array in (("images", np.random.default_rng(i).integers(1, 99, labels.shape).astype(np.uint8)),
                              ("labels", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / folder / f"{i}.tif", array)
    return root


def test_object_statistics_of_discs(tmp_path):
    found = measure(scan(discs([3, 16, 7], tmp_path), describe=Description(pixel_size=0.5, unit="um")))
    assert found.task == "instance"
    objects = found.objects
    area = 49
    assert area == sum((y * y + x * x <= 16) for y in range(-4, 5) for x in range(-4, 5))
    assert (objects.count, objects.measured) == (26, 26)
    assert (objects.per_case.minimum, objects.per_case.median, objects.per_case.maximum) == (3, 7, 16)
    assert objects.diameter_px.median == pytest.approx(2 * np.sqrt(area / np.pi))
    assert objects.diameter.median == pytest.approx(np.sqrt(area / np.pi))
    assert [e.maximum for e in objects.extent_px] == [9, 9]
    assert objects.elongation.maximum == pytest.approx(1)
    assert objects.inscribed_radius.median == pytest.approx(0.5 * np.sqrt(17))  # nearest outside pixel at (4, 1)
    assert objects.fill.median == pytest.approx(1, abs=0.03)
    assert (objects.touching, objects.at_border, objects.elongated, objects.anisotropy) == (0, 0, 0, None)
    assert [(c.name, c.value, c.voxels, c.cases) for c in found.classes] == [("object", 1, 26 * 49, 3)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(13, 17), (7, 9, 8)]))
def test_object_measures_equal_brute_force(seed, shape):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 4, tuple(-(-s // 3) for s in shape)).repeat(3, 0).repeat(3, 1)
    raw = (raw.repeat(3, 2) if len(shape) == 3 else raw)[tuple(slice(0, s) for s in shape)]
    spacing = tuple(rng.uniform(0.5, 3, len(shape)).tolist())
    labels = Labels.from_values(raw, Grid.regular(shape, spacing), "instance")
    counts, voxels = count_ids(labels)
    found = sample_objects(labels, voxels, rng, sizes=10**6, shapes=10**6)
    props = regionprops(labels.array.astype(int), spacing=spacing)
    assert voxels.tolist() == [int((labels.array == i).sum()) for i in range(len(labels.values))]
    assert found.count == counts.present == len(props)
    n = len(shape)
    assert found.extent.tolist() == [[p.bbox[a + n] - p.bbox[a] for a in range(n)] for p in props]
    assert found.diameter == pytest.approx([p.equivalent_diameter_area for p in props])
    touching = set()
    for axis in range(len(shape)):
        a, b = np.swapaxes(labels.array, 0, axis)[:-1], np.swapaxes(labels.array, 0, axis)[1:]
        touching |= {int(v) for p, q in zip(a.flat, b.flat, strict=True) if p != q and p and q for v in (p, q)}
    assert found.touching == len(touching)
    border = {int(v) for i, v in np.ndenumerate(labels.array)
              if v and any(k in (0, s - 1) for k, s in zip(i, shape, strict=True))}
    assert found.border == len(border)


def test_elongation_is_the_ratio_of_principal_axes():
    # A 4 x 20 rectangle has variances (16 - 1 + 1) / 12 and (400 - 1 + 1) / 12 with voxels as boxes: ratio 5.
    array = np.zeros((10, 30), np.uint8)
    array[3:7, 5:25] = 1
    labels = Labels.from_values(array, Grid.regular(array.shape), "instance")
    found = sample_objects(labels, np.array([220, 80]), np.random.default_rng(0), sizes=9, shapes=9)
    assert found.elongation.tolist() == [pytest.approx(5)]
    assert found.radius.tolist() == [2]
    assert found.fill.tolist() == [pytest.approx(12 / (4 * np.pi))]  # area / (4 π σ1 σ2)


def test_a_ring_fills_less_than_a_disc():
    yy, xx = np.mgrid[:64, :64]
    r = np.hypot(yy - 32, xx - 32)
    for inner, expected in ((0, 1.0), (20, (30**2 - 20**2) / (30**2 + 20**2))):
        array = ((r <= 30) & (r >= inner)).astype(np.uint8)
        labels = Labels.from_values(array, Grid.regular(array.shape), "instance")
        found = sample_objects(labels, np.bincount(array.ravel()), np.random.default_rng(0), sizes=9, shapes=9)
        assert found.fill[0] == pytest.approx(expected, abs=0.02)


def test_a_ball_fills_its_ellipsoid_whatever_the_spacing():
    zz, yy, xx = np.mgrid[:21, :41, :41]
    array = (((zz - 10) * 2.0) ** 2 + (yy - 20) ** 2 + (xx - 20) ** 2 <= 18**2).astype(np.uint8)
    labels = Labels.from_values(array, Grid.regular(array.shape, (1.0, 0.5, 0.5)), "instance")
    found = sample_objects(labels, np.bincount(array.ravel()), np.random.default_rng(0), sizes=9, shapes=9)
    assert found.fill[0] == pytest.approx(1, abs=0.02)
    assert found.elongation[0] == pytest.approx(1, abs=0.03)
    assert found.diameter[0] == pytest.approx(18, rel=0.02)


def test_large_objects_are_measured_on_fewer_voxels_in_the_same_units():
    array = np.zeros((640, 640), np.uint8)
    array[20:620, 20:620] = 1
    labels = Labels.from_values(array, Grid.regular(array.shape), "instance")
    found = sample_objects(labels, np.bincount(array.ravel()), np.random.default_rng(0), sizes=9, shapes=9)
    assert found.radius[0] == pytest.approx(300, abs=4)
    assert found.fill[0] == pytest.approx(12 / (4 * np.pi), rel=0.01)


def test_one_voxel_objects_and_flat_stacks_have_finite_shapes():
    for shape in ((5, 6), (1, 5, 6), (1, 1, 6)):
        array = np.zeros(shape, np.uint8)
        array[..., 2] = 1
        labels = Labels.from_values(array, Grid.regular(shape), "instance")
        found = sample_objects(labels, np.bincount(array.ravel()), np.random.default_rng(0), sizes=9, shapes=9)
        assert np.isfinite([found.radius, found.elongation, found.fill]).all()


def test_anisotropy_is_guessed_from_boxes_and_reported(tmp_path):
    assert anisotropy_of(np.full((19, 3), 4.0)) is None
    for i in range(3):
        labels = np.zeros((24, 90, 90), np.uint16)
        for k in range(12 + 4 * i):
            y, x = divmod(k, 5)
            labels[8:12, 16 * y + 2 : 16 * y + 14, 16 * x + 2 : 16 * x + 14] = k + 1
        for folder, array in (("images", np.random.default_rng(i).integers(1, 99, labels.shape).astype(np.uint8)),
                              ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{i}.tif", array, imagej=True, metadata={"axes": "ZYX"})
    found = measure(scan(tmp_path))
    assert found.objects.anisotropy == pytest.approx(3)
    assert "3.00" in found.notes[0]


def test_samples_stay_within_bounds(tmp_path):
    found = measure(scan(discs([16] * 30 + [12] * 20 + [9] * 10, tmp_path)))
    assert found.objects.count == 30 * 16 + 20 * 12 + 10 * 9
    assert found.objects.measured <= 2000


def ids(*counts: int, broken: int = 0) -> list[IdCounts]:
    return [IdCounts(n, n, broken, broken, 0) for n in counts]


def presence(*sets: set[int]) -> list[int]:
    return [sum(v in s for s in sets) for v in set().union(*sets)]


@pytest.mark.parametrize(("counts", "per_value", "task"), [
    (ids(2, 2, 2, 2), [4, 4], "semantic"),  # two classes, always there
    (ids(1, 1, 1), [3], "semantic"),  # one binary object per image
    (ids(1, 0, 1), [2], "semantic"),  # sometimes absent
    (ids(3, 2, 3, 1), presence({1, 2, 3}, {1, 2}, {1, 2, 3}, {1}), "semantic"),  # rarer classes come last
    ([IdCounts(n, 104, 0, 0, 0) for n in (104, 60, 61, 80)], [3] * 100, "semantic"),  # many organs, fields of view
    (ids(1, 1, 1, broken=1), [3], "semantic"),  # binary mask of many pieces
    (ids(3, 30, 12, 44), presence(*({*range(1, n + 1)} for n in (3, 30, 12, 44))), "instance"),  # counted up
    (ids(32, 54), presence({*range(1, 33)}, {*range(1, 55)}), "instance"),  # two cases, many objects
    ([IdCounts(5, 900, 0, 0, 0), IdCounts(9, 1800, 0, 0, 0), IdCounts(7, 400, 0, 0, 0)], [1] * 21, "instance"),
    (ids(40), [1] * 40, "instance"),  # one case, many ids
    (ids(3), [1] * 3, "semantic"),  # one case, few ids
    (ids(0, 0), [], "semantic"),
    (ids(10, 30, 20, broken=1), [2] * 30, "instance"),  # 3 of 60 ids cut: slips
    (ids(10, 30, 20, broken=4), [2] * 30, "semantic"),  # 12 of 60
    ([IdCounts(n, 2 * n + n // 3, 0, 0, 0) for n in (9, 12, 15)], [3] * 9 + [1] * 9, "semantic"),  # sparse, recurring
    (ids(3, 8, 5, 4, 6), presence(*({*range(1, n + 1)} for n in (3, 8, 5, 4, 6))), "instance"),  # few, counted up
    (ids(5, 4, 5, 3, 5), presence(*({*range(1, n + 1)} for n in (5, 4, 5, 3, 5))), "semantic"),  # last classes missing
    ([IdCounts(n, 9, 0, 0, 0) for n in (9, 8, 6, 5)], presence({*range(1, 10)}, {1, *range(3, 10)}, {1, 3, 4, 6, 8, 9},
                                                               {1, 2, 5, 8, 9}), "semantic"),  # any class missing
    ([IdCounts(5, 2**31 + 10 * n, 0, 0, 0) for n in range(4)], [1] * 20, "instance"),  # equally many, none twice
    ([IdCounts(n, 9000 + n, 0, 0, 0) for n in (5, 6, 5)], [1] * 16, "instance"),
    ([IdCounts(1, n, 0, 0, 0) for n in (1, 2, 3)], [1] * 3, "semantic"),  # one class per image
])
def test_task_choice(counts, per_value, task):
    found, reason = choose_task(counts, per_value)
    assert found == task
    assert reason


def test_a_crumb_does_not_break_an_object():
    array = np.zeros((20, 20), np.uint8)
    array[2:12, 2:12], array[18, 18] = 1, 1
    counts, _ = count_ids(Labels.from_values(array, Grid.regular((20, 20)), "instance"))
    assert (counts.split, counts.broken) == (1, 0)
    array[14:18, 2:8] = 1
    counts, _ = count_ids(Labels.from_values(array, Grid.regular((20, 20)), "instance"))
    assert (counts.split, counts.broken) == (1, 1)


@pytest.mark.data
@pytest.mark.parametrize(("name", "where", "cases", "task"), [
    ("msd_hippocampus", {}, 180, "semantic"), ("dsb2018", {"type": "fluo"}, 432, "instance"),
    ("isbi2012_em", {}, 22, "semantic"), ("axondeepseg_sem", {}, 8, "semantic"),
    ("usiigaci_phase", {}, 7, "instance"), ("plantseg_cells3d", {}, 4, "instance"),
    ("bbbc050_mouse_embryo", {}, 16, "instance"), ("acdc_cardiac", {}, 40, "semantic"),
])
def test_real_data_sets_are_known_for_what_they_are(name, where, cases, task):
    root = os.environ.get("BIOSEGKIT_DATA")
    if not root:
        pytest.skip("BIOSEGKIT_DATA is not set")
    dataset = scan(Path(root) / name / "cases.csv", where=where)
    problems, found = survey(dataset)
    assert len(dataset) == cases
    assert not [p for p in problems if p.severity == "error"]
    assert found.task == task
    assert 0 < len(found.cases) <= cases  # those of the test are not measured
