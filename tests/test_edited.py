"""Labels of an OME-Zarr that are edited on disk, and their smaller resolutions."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import zarr

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image, Labels
from biosegkit.io import edited as editing
from biosegkit.io import read_labels, write
from biosegkit.io.edited import EditedArray, open_for_editing

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


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_what_is_changed_after_a_save_can_be_read_and_saved_again(tmp_path, version):
    path, new = tmp_path / "a.ome.zarr", values()
    write(Labels.from_values(new, GRID, "instance"), path, ngff=version)
    edited, other = open_for_editing(path), open_for_editing(path)
    for one, voxel in ((edited, (1, 700, 500)), (edited, (0, 2, 2)), (other, (0, 4, 4)), (edited, (1, 8, 8))):
        new[voxel] = one.array[voxel] = 4000
        shutil.copytree(path, tmp_path / "killed.ome.zarr", dirs_exist_ok=True)
        found = read_labels(tmp_path / "killed.ome.zarr", "instance")
        assert np.array_equal(found.restored(), new)
        assert any("not saved" in note for note in found.notes)
        assert open_for_editing(tmp_path / "killed.ome.zarr").array[voxel] == 4000
        one.save()
        assert not any("not saved" in note for note in read_labels(path, "instance").notes)
        coarse = zarr.open_array(path / "1", mode="r")
        assert np.array_equal(coarse[...], new[:, ::2, ::2])


def test_what_is_changed_while_it_is_saved_is_for_the_next_save(tmp_path, monkeypatch):
    write(Labels.from_values(values(), GRID, "instance"), tmp_path / "a.ome.zarr")
    one = open_for_editing(tmp_path / "a.ome.zarr")
    write_smaller = editing._picked

    def painted_meanwhile(*arrays):
        write_smaller(*arrays)
        one.array[0, 0, 0] = 299

    with monkeypatch.context() as patch:
        patch.setattr(editing, "_picked", painted_meanwhile)
        one.save()
    found = read_labels(tmp_path / "a.ome.zarr", "instance")
    assert found.restored()[0, 0, 0] == 299
    assert any("not saved" in note for note in found.notes)
    one.save()
    assert not any("not saved" in note for note in read_labels(tmp_path / "a.ome.zarr", "instance").notes)


KEYS = [..., (1, 2, 3), (-1, ..., -2), (slice(1, 3),), (slice(0, 3), 1, slice(2, 5)), (slice(None, None, 2), ..., 4),
        (2, slice(4, None), slice(None, None, -2)), (slice(2, 2), 1), (slice(1, 2), slice(2, 3), slice(3, 4)),
        (np.array([0, 3, -1]), np.array([5, 0, 2]), np.array([4, -5, 0])), (np.array([0, 1]), 2, np.array([[3], [4]])),
        (np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))]


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_turned_array_is_read_and_written_as_one_of_numpy(tmp_path, perm, flips):
    turn = Turn(perm, flips)
    stored = zarr.create_array(tmp_path / "0", shape=tuple(np.array((4, 6, 5))[list(turn.inverse().perm)]),
                               chunks=(2, 3, 2), dtype="u2")
    stored[...] = np.arange(120).reshape(stored.shape)
    whole = stored[...]
    array, wanted = EditedArray(tmp_path, stored, Turn((0, 1, 2))).turned(turn), turn.apply(whole)
    assert (array.shape, array.ndim, array.size, array.dtype) == (wanted.shape, 3, 120, wanted.dtype)
    assert np.array_equal(np.asarray(array), wanted)
    for number, key in enumerate(KEYS, 1000):
        assert np.array_equal(array[key], wanted[key])
        array[key] = wanted[key] = number
        values = np.arange(wanted[key].size).reshape(wanted[key].shape) + 10 * number
        array[key] = wanted[key] = values
        assert np.array_equal(stored[...], whole), "wanted is a view of whole"
    for key in ((4, 0, 0), (0, -7, 0), (np.array([0]), np.array([6]), np.array([0])), (np.array([0]),)):
        with pytest.raises(IndexError):
            array[key]
        with pytest.raises(IndexError):
            array[key] = 7
    assert np.array_equal(stored[...], whole)


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
