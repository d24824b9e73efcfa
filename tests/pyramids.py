"""Small slides and pyramids as scanners and programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import ngff
from biosegkit.io import zarr as ome_zarr


def tissue(shape: tuple[int, int] = (700, 900), seed: int = 0) -> np.ndarray:
    """A coloured image that is smooth enough for JPEG, (y, x, 3)."""
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(0, 1, n) for n in shape)
    waves = [np.outer(np.sin(3 + a * y), np.cos(b * x)) for a, b in rng.uniform(2, 20, (3, 2))]
    return np.clip(np.stack(waves, -1) * 90 + 130, 0, 255).astype(np.uint8)


def halves(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Means of two by two pixels, again and again; a last row or column that is not full is dropped."""
    out = [image]
    for _ in range(levels):
        y, x = out[-1].shape[0] // 2, out[-1].shape[1] // 2
        four = out[-1][: 2 * y, : 2 * x].reshape(y, 2, x, 2, -1).mean((1, 3))
        out.append(np.rint(four).astype(image.dtype).reshape(y, x, *image.shape[2:]))
    return out


def subifds(path: Path, levels: list[np.ndarray], size: float | None = 0.25, **options: object) -> Path:
    """An OME-TIFF whose further levels are SubIFDs."""
    meta = {"axes": "YXS"[: levels[0].ndim]}
    if size:
        meta |= {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    options = {"tile": (128, 128), "compression": "zlib", **options}
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(levels[0], subifds=len(levels) - 1, metadata=meta, **options)
        for level in levels[1:]:
            out.write(level, subfiletype=1, **options)
    return path


def plain_pyramid(path: Path, levels: list[np.ndarray], **options: object) -> Path:
    """A TIFF whose levels are pages, the pixel size in its resolution tags (0.5 µm)."""
    with tifffile.TiffWriter(path) as out:
        for k, level in enumerate(levels):
            per_cm = 1e4 / 0.5 / 2**k
            out.write(level, tile=(128, 128), subfiletype=int(k > 0), resolution=(per_cm, per_cm),
                      resolutionunit="CENTIMETER", metadata=None, compression="zlib", **options)
    return path


def svs(path: Path, levels: list[np.ndarray], mpp: float | None = 0.5) -> Path:
    """Like an Aperio slide: baseline, thumbnail, further levels, label and macro image."""
    known = f"|AppMag = 20|MPP = {mpp}" if mpp else "|AppMag = 20"
    text = f"Aperio Image Library v11.2.1\r\n{levels[0].shape[1]}x{levels[0].shape[0]} (256x256) JPEG/RGB Q=70"
    options = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path) as out:
        out.write(levels[0], tile=(128, 128), description=text + known, **options)
        out.write(levels[-1], rowsperstrip=16, description=text, **options)
        for level in levels[1:]:
            out.write(level, tile=(128, 128), description=text, **options)
        out.write(levels[-1][:40], rowsperstrip=40, subfiletype=1, description="label", **options)
        out.write(levels[-1][:50], rowsperstrip=50, subfiletype=9, description="macro", **options)
    return path


def multiscale(path: Path, array: np.ndarray, spacing: tuple[float, ...], version: ngff.Version = "0.5") -> Path:
    """An OME-Zarr of ours, with small chunks and as many levels as that gives."""
    image = Image(array, Grid.regular(array.shape[1:], spacing, "um"))
    ome_zarr.write(image, path, version)
    return path
