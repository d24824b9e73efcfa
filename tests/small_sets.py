"""Tiny data sets and plans whose training takes a second or two on one core."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import tifffile

from biosegkit.cases import scan
from biosegkit.plan.networks import NETWORKS
from biosegkit.plan.schema import (
    Architecture,
    Augmentation,
    Channel,
    Configuration,
    LabelTable,
    Plan,
    Preprocessing,
    Training,
)


def discs(shape=(32, 32), count=3, seed=0, radius=4):
    """An image of bright, noisy balls and their ids; balls keep apart."""
    rng = np.random.default_rng([seed, 11])
    labels = np.zeros(shape, np.uint16)
    points = np.indices(shape)
    for i in range(1, count + 1):
        for _ in range(50):
            centre = [rng.uniform(min(radius, (n - 1) / 2), max(n - radius, (n + 1) / 2)) for n in shape]
            inside = sum((p - c) ** 2 for p, c in zip(points, centre, strict=True)) < radius**2
            if not labels[inside].any():
                labels[inside] = i
                break
    image = 20 + 180 * (labels > 0) + rng.normal(0, 8, shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write_instances(folder, cases=4, shape=(32, 32), **options):
    """A 2D instance set of TIFF files with a table."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i in range(cases):
        image, labels = discs(shape, count=2 + i % 3, seed=i, **options)
        tifffile.imwrite(folder / f"images/c{i}.tif", image)
        tifffile.imwrite(folder / f"labels/c{i}.tif", labels)
    return scan(folder)


def write_volumes(folder, cases=3, shape=(12, 16, 14), spacing=(1.0, 1.0, 1.0)):
    """A 3D semantic set of NIfTI files: classes 3 (left) and 7 (right), stored in two orientations."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i in range(cases):
        image, labels = discs(shape, count=2, seed=i, radius=3)
        classes = np.choose(labels, [0, 3, 7]).astype(np.uint8)
        affine = np.diag([*spacing[::-1], 1.0])
        if i % 2:
            affine[0] *= -1
        for name, array in (("images", image.astype(np.int16)), ("labels", classes)):
            nib.save(nib.Nifti1Image(array.T.copy(), affine), folder / name / f"v{i}.nii.gz")
    return scan(folder)


def tiny_plan(ndim=2, *, task="instance", method=None, network="unet", patch=None, anisotropic=False, batch=2, steps=4,
              values=(0, 3, 7), unit="px", channels=1, spacing=None, **training):
    """A complete plan with a network of a few hundred weights per stage."""
    flat = (1, 2, 2) if anisotropic else (2,) * ndim
    kernels = ((1, 3, 3),) if anisotropic else ((3,) * ndim,)
    row = NETWORKS[network]
    first = max(4, row.width_step)
    architecture = Architecture(
        name=network, features=(first, first + 2, first + 4), kernels=(*kernels, (3,) * ndim, (3,) * ndim),
        strides=((1,) * ndim, flat, (2,) * ndim), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1), norm="group",
        deep_supervision=row.deep_supervision, encoder="tu-test_efficientnet" if row.encoder else "")
    patch = patch or ((4, 16, 16) if anisotropic else (16,) * ndim)
    configuration = Configuration(
        name="2d" if ndim == 2 else "3d_fullres", ndim=ndim,
        spacing=spacing or ((3.0, 1.0, 1.0) if anisotropic else (1.0,) * ndim),
        median_shape=patch, patch=patch, batch=batch, tile_step=tuple(max(1, p // 2) for p in patch),
        architecture=architecture)
    if task == "instance":
        table = LabelTable(task="instance", names=("background", "object"), values=(0, 1))
    else:
        table = LabelTable(task="semantic", names=("background", *(f"c{v}" for v in values[1:])), values=values)
    training = {"steps": steps, "warmup": 0.0, "average": 1.0, "checkpoint_seconds": 1e9, "steps_per_epoch": 1000,
                "augmentation": Augmentation(mirror_axes=tuple(range(ndim))), "validation_fraction": 0.25, **training}
    return Plan(
        name="tiny", preset="default", labels=table,
        preprocessing=Preprocessing(channels=tuple(Channel(name=f"c{i}", scheme="zscore") for i in range(channels)),
                                    transpose=tuple(range(ndim)), resample=unit != "px", unit=unit,
                                    crop_to_nonzero=False),
        configuration=configuration, method=method or ("distance" if task == "instance" else "semantic"),
        training=Training(**training))


def changed(plan, **training):
    """The plan with other training fields."""
    return plan.model_copy(update={"training": plan.training.model_copy(update=training)})


def write_table(path, rows):
    """A cases table."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
