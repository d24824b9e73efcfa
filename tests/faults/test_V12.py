"""Axes of one voxel, and images smaller than a patch, through training and prediction (fault V12)."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
from small_sets import discs, tiny_plan

from biosegkit.bundle import load
from biosegkit.cases import scan
from biosegkit.configure import make_plan
from biosegkit.fingerprint import measure
from biosegkit.train import fit


def stacks(folder, shapes, task):
    """NIfTI volumes of any shapes."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i, shape in enumerate(shapes):
        image, labels = discs(shape, count=2, seed=i, radius=2)
        labels = labels if task == "instance" else (labels > 0).astype(np.uint8)
        for name, array in (("images", image.astype(np.int16)), ("labels", labels.astype(np.int16))):
            nib.save(nib.Nifti1Image(array.T.copy(), np.eye(4)), folder / name / f"v{i}.nii.gz")
    return scan(folder)


@pytest.mark.parametrize("shapes", [
    [(1, 24, 24)] * 3,  # a stack of one slice: planned as 2D
    [(3, 9, 8)] * 3,  # smaller than any patch
    [(1, 20, 22), (6, 20, 18), (12, 8, 16)],  # one of them a single slice
], ids=["one slice", "tiny", "mixed"])
def test_V12_from_plan_to_prediction(tmp_path, shapes):
    dataset = stacks(tmp_path / "data", shapes, "semantic")
    plan = make_plan(measure(dataset, task="semantic"), dataset, steps=2, device="cpu")
    if shapes[0][0] == 1 and len(set(shapes)) == 1:
        assert plan.configuration.ndim == 2
    fit(plan, dataset, tmp_path / "run", device="cpu", steps=2)
    model = load(tmp_path / "run", "cpu")
    for case in dataset:
        image = dataset.load_image(case)
        found = model.predict(image, tta=True)
        assert found.labels.array.shape == image.grid.shape
        assert found.labels.grid == image.grid


@pytest.mark.parametrize("shape", [(5, 7), (1, 30), (40, 3)])
def test_V12_2d_images_smaller_than_the_patch(tmp_path, shape):
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 255, shape).astype(np.uint8)
        labels = np.zeros(shape, np.uint16)
        labels[tuple(slice(0, max(1, n // 2)) for n in shape)] = 1 + i
        tifffile.imwrite(tmp_path / f"data/images/{i}.tif", image)
        tifffile.imwrite(tmp_path / f"data/labels/{i}.tif", labels)
    dataset = scan(tmp_path / "data")
    fit(tiny_plan(steps=2), dataset, tmp_path / "run", device="cpu")
    model = load(tmp_path / "run", "cpu")
    for case in dataset:
        assert model.predict(dataset.load_image(case)).labels.array.shape == shape
    plan = make_plan(measure(dataset, task="instance"), dataset, steps=1, device="cpu")
    fit(plan, dataset, tmp_path / "planned", device="cpu", steps=1)
    assert load(tmp_path / "planned", "cpu").predict(dataset.load_image(dataset[0])).labels.array.shape == shape
