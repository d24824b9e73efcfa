"""The samples: what the generator promises, and that the committed files are what it makes."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import biosegkit_samples
import nibabel
import numpy as np
import pytest
import tifffile
from biosegkit_samples import generate
from scipy import ndimage

COMMITTED = Path(biosegkit_samples.__file__).parent / "phantom"


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_a_phantom_depends_on_seed_and_index_alone():
    first, again = generate.make_phantom(3), generate.make_phantom(3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, generate.make_phantom(3, seed=1).labels)
    other = generate.make_phantom(7)  # same spacing, another anatomy
    assert first.image.shape == other.image.shape
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize("index", range(12))
def test_every_phantom_has_two_plausible_structures_inside_one_field_of_view(index):
    phantom = generate.make_phantom(index)
    spacing = np.abs(np.diag(phantom.affine))[2::-1]
    assert np.abs(np.array(phantom.image.shape) * spacing - generate.FIELD_OF_VIEW).max() < 1
    volumes = np.bincount(phantom.labels.ravel(), minlength=3)[1:] * spacing.prod()
    assert ((volumes > 300) & (volumes < 2500)).all()
    for value in (1, 2):  # one body each, but for a few voxels that the random warp may pinch off
        pieces, _ = ndimage.label(phantom.labels == value, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() >= 0.95 * sizes.sum()
    border = np.ones(phantom.labels.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert not phantom.labels[border].any()


def test_brightness_alone_does_not_solve_the_phantom():
    phantom = generate.make_phantom(0)
    arch = phantom.labels == 2
    low, high = np.percentile(phantom.image[arch], [10, 90])
    guess = (phantom.image >= low) & (phantom.image <= high)
    dice = 2 * (guess & arch).sum() / (guess.sum() + arch.sum())
    assert dice < 0.5


def test_a_flipped_phantom_is_the_same_anatomy_in_the_world():
    phantom = generate.make_phantom(2)
    assert phantom.affine[0, 0] < 0
    plain = generate.make_phantom(6)
    assert plain.affine[0, 0] > 0
    centres = [p.affine @ [*(np.array(p.image.shape[::-1]) - 1) / 2, 1] for p in (phantom, plain)]
    assert np.allclose(centres[0], centres[1])


def test_the_phantom_set_is_complete_and_quick(tmp_path):
    start = time.perf_counter()
    rows = read_rows(generate.write_phantoms(tmp_path, cases=24))
    assert time.perf_counter() - start < 6  # about one second on a free core
    assert [row["split"] for row in rows] == ["train"] * 18 + ["test"] * 6
    assert len({row["group"] for row in rows}) == 24
    image, label = (nibabel.load(tmp_path / rows[2][kind]) for kind in ("image", "label"))
    assert np.array_equal(image.affine, label.affine)
    assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.shape == (32, 40, 18)


def test_the_committed_phantoms_are_what_the_generator_makes():
    rows = read_rows(COMMITTED / "cases.csv")
    assert [row["split"] for row in rows] == ["train", "test"]
    for index, row in enumerate(rows):
        phantom = generate.make_phantom(index)
        image = np.asanyarray(nibabel.load(COMMITTED / row["image"]).dataobj).transpose(2, 1, 0)
        label = np.asanyarray(nibabel.load(COMMITTED / row["label"]).dataobj).transpose(2, 1, 0)
        # another processor may round the last bit of a cosine differently
        assert np.abs(image.astype(int) - phantom.image).max() <= 1
        assert (label != phantom.labels).mean() < 1e-3
    assert sum(file.stat().st_size for file in COMMITTED.rglob("*")) < 500_000


def test_nuclei_tiles_share_no_pixel_and_leave_a_gap_before_the_test_tiles(tmp_path):
    from stardist.data import test_image_nuclei_2d as shipped

    image, mask = shipped(return_mask=True)
    rows = read_rows(generate.write_nuclei(tmp_path))
    assert [row["split"] for row in rows] == ["train"] * 6 + ["test"] * 3
    owner = np.zeros(image.shape, int)
    for row in rows:
        tile, label = (tifffile.imread(tmp_path / row[kind]) for kind in ("image", "label"))
        y, x = (int(digit) * 176 for digit in row["case"][-2:])
        assert np.array_equal(tile, image[y : y + 160, x : x + 160])
        assert np.array_equal(label, mask[y : y + 160, x : x + 160])
        owner[y : y + 160, x : x + 160] += 1 if row["split"] == "train" else 2
    assert set(np.unique(owner)) == {0, 1, 2}
    assert ndimage.distance_transform_edt(owner != 1)[owner == 2].min() > 16
