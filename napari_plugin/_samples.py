"""``File > Open Sample > biosegkit``: small data that are there without a network."""

from __future__ import annotations

from typing import Any

__all__ = ["mri", "nuclei_2d", "nuclei_3d", "slide"]

LayerData = tuple[Any, dict[str, Any], str]


def nuclei_2d() -> list[LayerData]:
    """A real fluorescence image of nuclei and its mask."""
    return _nuclei(2)


def nuclei_3d() -> list[LayerData]:
    """A stack of synthetic nuclei and its mask."""
    return _nuclei(3)


def mri() -> list[LayerData]:
    """A head with two structures, computed; in millimetres."""
    from importlib import resources

    from biosegkit.io import read, read_labels
    from biosegkit.viewing import layers

    with resources.as_file(resources.files("biosegkit_samples") / "phantom") as folder:
        image = read(folder / "images" / "phantom_001.nii.gz")
        labels = read_labels(folder / "labels" / "phantom_001.nii.gz", "semantic")
    return layers(image, labels)


def slide() -> list[LayerData]:
    """A synthetic slide of three resolutions, half a micrometre per pixel."""
    from biosegkit_samples.microscopy import PIXEL, make_slide

    settings = {"name": "slide", "rgb": True, "multiscale": True, "scale": (PIXEL, PIXEL), "units": ("um", "um"),
                "axis_labels": ("y", "x")}
    return [(make_slide(), settings, "image")]


def _nuclei(ndim: int) -> list[LayerData]:
    """Image and mask; their voxels have no size."""
    from biosegkit_samples.microscopy import nuclei

    from biosegkit.grid import Grid
    from biosegkit.image import Image, Labels
    from biosegkit.viewing import layers

    image, mask = nuclei(ndim)
    grid = Grid.regular(image.shape)
    return layers(Image(image[None], grid, source="nuclei"),
                  Labels.from_values(mask, grid, "instance", source="nuclei"))
