"""Endings of the names of files that are read; importing this loads nothing else."""

from __future__ import annotations

__all__ = ["ENDINGS", "SLIDES"]

#: Endings of slides, which are segmented in blocks whatever their size → format.
_SLIDES = {".svs": "tiff", ".ndpi": "tiff", ".scn": "tiff", ".bif": "openslide", ".mrxs": "openslide",
           ".svslide": "openslide"}
SLIDES = tuple(_SLIDES)
#: Endings of names → format. Longest first, so that .nii.gz is not .gz.
ENDINGS: dict[str, str] = {
    ".ome.zarr": "zarr", ".ome.tiff": "tiff", ".ome.tif": "tiff", ".nii.gz": "nifti.gz", ".nii": "nifti",
    ".zarr": "zarr", ".tiff": "tiff", ".tif": "tiff", ".qptiff": "tiff", ".lsm": "tiff", **_SLIDES,
    ".png": "png", ".jpeg": "jpeg", ".jpg": "jpeg", ".bmp": "bmp",
}
