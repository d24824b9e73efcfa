"""Labels of an OME-Zarr that are edited on disk, and their smaller resolutions."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read_labels, write
from biosegkit.io.edited import open_for_editing

GRID = Grid.regular((2, 1501, 1100), (4.0, 0.5, 0.5), "um")


def values(seed=0):
    coarse = np.random.default_rng([seed, 3]).integers(0, 300, (2, 31, 23))
    return np.repeat(np.repeat(coarse, 49, 1), 48, 2)[:, :1501, :1100].astype(np.uint16)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_saved_edits_are_what_writing_them_would_have_been(tmp_path, version):
    write(Labels.from_values(values(), GRID, "instance"), tmp_path / "a.ome.zarr", ngff=version)
    edited = open_for_editing(tmp_path / "a.ome.zarr")
    assert len(edited.levels) == 2
    assert (edited.grid.spacing, edited.grid.unit) == (GRID.spacing, "um")
    new = values()
    new[1, 700:760, 500:590] = new[0, :3, :3] = 299
    edited.array[1, 700:760, 500:590] = 299
    edited.array[0, :3, :3] = 299
    unsaved = read_labels(tmp_path / "a.ome.zarr", "instance")
    assert np.array_equal(unsaved.restored(), new)
    assert any("not saved" in note for note in unsaved.notes)
    edited.save()
    saved = read_labels(tmp_path / "a.ome.zarr", "instance")
    assert np.array_equal(saved.restored(), new)
    assert not any("not saved" in note for note in saved.notes)
    write(Labels.from_values(new, GRID, "instance"), tmp_path / "b.ome.zarr", ngff=version)
    for level in edited.levels:
        mine, theirs = (zarr.open_array(tmp_path / name / level, mode="r")[...]
                        for name in ("a.ome.zarr", "b.ome.zarr"))
        assert np.array_equal(mine, theirs)


def test_lost_chunks_are_noticed_before_and_after(tmp_path):
    write(Labels.from_values(values(), GRID, "instance"), tmp_path / "a.ome.zarr")
    open_for_editing(tmp_path / "a.ome.zarr").save()
    next(p for p in (tmp_path / "a.ome.zarr/0").rglob("*") if p.is_file() and p.name != "zarr.json").unlink()
    with pytest.raises(FileError, match="of array 0"):
        open_for_editing(tmp_path / "a.ome.zarr")


def test_emptied_chunks_stay_on_disk(tmp_path):
    write(Labels.from_values(values(), GRID, "instance"), tmp_path / "a.ome.zarr")
    count = sum(1 for p in (tmp_path / "a.ome.zarr").rglob("*") if p.is_file())
    edited = open_for_editing(tmp_path / "a.ome.zarr")
    edited.array[...] = 0
    edited.save()
    assert sum(1 for p in (tmp_path / "a.ome.zarr").rglob("*") if p.is_file()) == count


def test_labels_inside_an_image_and_of_another_writer(tmp_path):
    grid = Grid.regular((40, 50), 1.0, "um")
    write(Image(np.zeros((1, 40, 50), np.uint8), grid), tmp_path / "a.ome.zarr")
    write(Labels.from_values(values()[0, :40, :50], grid, "instance"), tmp_path / "a.ome.zarr/labels/cells")
    assert open_for_editing(tmp_path / "a.ome.zarr").path.name == "cells"
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("s0", data=values()[0, :300, :270], chunks=(64, 64))
    axes = [{"name": n, "type": "space"} for n in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [
        {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}]}]}
    edited = open_for_editing(tmp_path / "b.zarr")
    edited.array[5, 5] = 9
    edited.save()
    assert read_labels(tmp_path / "b.zarr", "instance").restored()[5, 5] == 9


def test_what_cannot_be_edited_is_refused(tmp_path):
    grid = Grid.regular((4, 5))
    with pytest.raises(FileError, match="no such folder"):
        open_for_editing(tmp_path / "none.zarr")
    write(Image(np.zeros((1, 4, 5), np.float32), grid), tmp_path / "image.zarr")
    with pytest.raises(DataError, match="float32"):
        open_for_editing(tmp_path / "image.zarr")
    write(Image(np.zeros((2, 4, 5), np.uint8), grid), tmp_path / "two.zarr")
    with pytest.raises(DataError, match=r"\(2, 4, 5\)"):
        open_for_editing(tmp_path / "two.zarr")
    zarr.create_array(tmp_path / "plain.zarr", shape=(4, 5), dtype="u1")
    with pytest.raises(FileError, match="no labels"):
        open_for_editing(tmp_path / "plain.zarr")
