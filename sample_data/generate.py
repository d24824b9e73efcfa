"""Small data sets made on the spot: a 3D MRI-like phantom, and real 2D nuclei cut into training and test tiles.

The phantom is computed from a seed and holds no patient data. The nuclei are the image and mask that the ``stardist``
package ships (2018 Data Science Bowl, CC0); they are read from there and never copied into this project.

Run ``python -m biosegkit_samples.generate FOLDER`` to write both.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .microscopy import nuclei

__all__ = ["FIELD_OF_VIEW", "NAMES", "SEED", "Phantom", "make_phantom", "nuclei_tiles", "write_nuclei",
           "write_phantoms"]

Array = npt.NDArray[Any]

#: Seed of every sample in this folder.
SEED = 20260301
#: Extent of a phantom along (z, y, x), in millimetres.
FIELD_OF_VIEW = (36.0, 40.0, 32.0)
#: What the phantom's labels mean.
NAMES = {"background": 0, "nucleus": 1, "arch": 2}
#: Side of a nuclei tile and width of the strip left out between tiles, in pixels: the largest nucleus is 40 long,
#: and 3 x 160 + 2 x 16 is the whole image.
TILE, GAP = 160, 16

_SPACINGS = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.5, 0.9, 0.9))
_AIR, _FAT, _CSF, _GREY, _WHITE, _NUCLEUS, _ARCH = 0.02, 1.0, 0.25, 0.6, 0.85, 0.69, 0.5


@dataclass(frozen=True)
class Phantom:
    """One case: arrays in (z, y, x) order and the NIfTI affine from index (x, y, z) to world (x, y, z), RAS+ mm."""

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def make_phantom(index: int, seed: int = SEED) -> Phantom:
    """Phantom number ``index``: a head in T1-like contrast with two structures of varied shape and pose.

    A bias field, Rician noise, an arbitrary intensity scale, anisotropic voxels in every other case and a left-right
    flipped storage in every third are there because real MRI has them. Same index and seed, same phantom.

    Examples
    --------
    >>> phantom = make_phantom(0)
    >>> phantom.image.shape, np.unique(phantom.labels).tolist()
    ((36, 40, 32), [0, 1, 2])
    """
    rng = np.random.default_rng([seed, index])
    spacing = _SPACINGS[index % len(_SPACINGS)]
    shape = tuple(round(extent / step) for extent, step in zip(FIELD_OF_VIEW, spacing, strict=True))
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    points = points + 1.3 * np.stack([_smooth(rng, shape) for _ in range(3)])  # no two anatomies are alike
    labels, tissue = _anatomy(rng, points, shape)
    image = _scan(rng, tissue, shape)
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [-axis[-1] for axis in axes[::-1]]
    if index % 3 == 2:  # stored from right to left: the affine says so, the world is the same
        image, labels = image[:, :, ::-1], labels[:, :, ::-1]
        affine[0] *= -1
    return Phantom(np.ascontiguousarray(image), np.ascontiguousarray(labels), affine)


def _anatomy(rng: np.random.Generator, points: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Labels, and the signal of every voxel before the scanner."""
    head = _ellipsoid(points, rng.normal(0, 0.5, 3), rng.uniform(0.96, 1.06) * np.array([17.5, 19.0, 15.5]))
    tissue = np.select([head < 0.68, head < 0.82, head < 0.9, head < 1.0], [_WHITE, _GREY, _CSF, _FAT], _AIR)
    tissue = tissue + 0.05 * _smooth(rng, shape, 7) * (head < 0.82)
    centre = np.array([rng.uniform(-2, 2), rng.uniform(-3.5, -0.5), rng.uniform(-3, 3)])
    turn = _rotation(rng, 25.0)
    local = np.einsum("ij,jzyx->izyx", turn, points - centre[:, None, None, None])
    nucleus = _ellipsoid(local, np.zeros(3), np.array([7.6, 5.7, 5.4]) * rng.uniform(0.85, 1.2, 3))
    bent = np.stack([local[0], local[1] - 8.4 + rng.uniform(0.02, 0.05) * local[0] ** 2, local[2] - rng.uniform(-1, 1)])
    arch = _ellipsoid(bent, np.zeros(3), np.array([11.0, 3.7, 5.0]) * rng.uniform(0.85, 1.2, 3))
    ventricle = _ellipsoid(local, np.array([0.0, -8.0, rng.uniform(-2, 2)]), np.array([5.0, 1.5, 2.0]))
    decoy = _ellipsoid(points, centre + turn.T @ np.array([0, 0, rng.choice([-9.5, 9.5])]), np.array([2.0, 2.5, 1.8]))
    tissue = np.select([nucleus < 1, arch < 1, ventricle < 1, decoy < 1], [_NUCLEUS, _ARCH, _CSF, _ARCH], tissue)
    return np.select([nucleus < 1, arch < 1], [1, 2], 0).astype(np.uint8), tissue


def _scan(rng: np.random.Generator, tissue: Array, shape: tuple[int, ...]) -> Array:
    """The scanner: partial volume, coil sensitivity, Rician noise, and a scale without meaning."""
    signal = ndimage.gaussian_filter(tissue, 0.5) * np.exp(0.2 * _smooth(rng, shape, 3))
    sigma = rng.uniform(0.025, 0.05)
    noisy = np.hypot(signal + rng.normal(0, sigma, shape), rng.normal(0, sigma, shape))
    return np.asarray(np.rint(noisy * rng.uniform(300, 1500)).astype(np.int16))


def _ellipsoid(points: Array, centre: Array, radii: Array) -> Array:
    """Distance from a centre in units of the radius; 1 on the surface."""
    offset = (points - centre[:, None, None, None]) / radii[:, None, None, None]
    return np.asarray(np.sqrt((offset**2).sum(0)))


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], waves: int = 4) -> Array:
    """A random field of about unit scale: a sum of cosines with up to ``waves - 1`` half waves along each axis."""
    z, y, x = (np.cos(np.pi * np.arange(waves)[:, None] * (np.arange(n) + 0.5) / n) for n in shape)
    weights = rng.standard_normal((waves,) * 3)
    scale = np.sqrt(1 + (waves - 1) / 2) ** 3
    return np.asarray(np.einsum("abc,az,by,cx->zyx", weights, z, y, x, optimize=True) / scale)


def _rotation(rng: np.random.Generator, degrees: float) -> Array:
    """A rotation about a random axis by a random angle of at most ``degrees`` (Rodrigues' formula)."""
    x, y, z = (axis := rng.standard_normal(3)) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def write_phantoms(folder: str | Path, cases: int = 24, seed: int = SEED, test: int | None = None) -> Path:
    """Write phantoms as NIfTI pairs and return the path of their ``cases.csv``.

    Parameters
    ----------
    folder : str or Path
        Gets ``images/``, ``labels/``, ``cases.csv`` and ``dataset.json``.
    cases : int
        Number of phantoms.
    test : int, optional
        The last so many have ``split`` ``test``; by default a quarter, at least one.
    """
    folder = Path(folder)
    held_out = max(1, cases // 4) if test is None else test
    rows = []
    for index in range(cases):
        phantom, name = make_phantom(index, seed), f"phantom_{index:03d}.nii.gz"
        _write_nifti(folder / "images" / name, phantom.image, phantom.affine)
        _write_nifti(folder / "labels" / name, phantom.labels, phantom.affine)
        rows.append({"image": f"images/{name}", "label": f"labels/{name}", "case": f"phantom_{index:03d}",
                     "group": f"phantom_{index:03d}", "split": "test" if index >= cases - held_out else "train"})
    about = {"channel_names": {"0": "T1"}, "labels": NAMES, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return _write_cases(folder, rows)


def nuclei_tiles() -> list[tuple[str, str, Array, Array]]:
    """``(name, split, image, mask)`` of nine 160 x 160 tiles: the upper six to train on, the lower three for scores.

    A strip of 16 pixels between neighbouring tiles belongs to neither, and no pixel to two.

    Raises
    ------
    FileNotFoundError
        If the installed ``stardist`` package has no sample images.
    """
    image, mask = nuclei(2)
    tiles = []
    for row in range(3):
        for column in range(3):
            y, x = row * (TILE + GAP), column * (TILE + GAP)
            window = np.s_[y : y + TILE, x : x + TILE]
            tiles.append((f"nuclei_{row}{column}", "test" if row == 2 else "train", image[window], mask[window]))
    return tiles


def write_nuclei(folder: str | Path) -> Path:
    """Write the nuclei tiles as TIFF pairs and return the path of their ``cases.csv``."""
    import tifffile

    folder, rows = Path(folder), []
    for name, split, image, mask in nuclei_tiles():
        for kind, array in (("images", image), ("labels", mask.astype(np.uint16))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"{name}.tif", array, compression="zlib", metadata={"axes": "YX"})
        rows.append({"image": f"images/{name}.tif", "label": f"labels/{name}.tif", "case": name, "group": name,
                     "split": split})
    return _write_cases(folder, rows)


def _write_nifti(path: Path, array: Array, affine: Array) -> None:
    """Write a (z, y, x) array with its affine, in millimetres."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    file = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    file.header.set_xyzt_units("mm", "sec")
    nibabel.save(file, path)


def _write_cases(folder: Path, rows: list[dict[str, str]]) -> Path:
    """The table that DATASET means: one row per pair, paths relative to it."""
    path = folder / "cases.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "biosegkit-samples")
    for made in (write_phantoms(target / "phantom"), write_nuclei(target / "nuclei")):
        sys.stdout.write(f"{made}\n")
