"""The manifest is valid, everything it names is there, and importing it loads nothing heavy. No Qt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import read, read_labels, write

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = yaml.safe_load((ROOT / "napari_plugin" / "napari.yaml").read_text("utf-8"))["contributions"]


def loaded_by(modules):
    """Everything that a fresh interpreter has loaded after these imports."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_npe2_finds_it_valid():
    npe2 = pytest.importorskip("npe2", reason="npe2, of the napari extra, is not installed")
    manifest = npe2.PluginManifest.from_file(ROOT / "napari_plugin" / "napari.yaml")
    manifest.validate_imports()
    used = {c["command"] for kind in ("readers", "writers", "sample_data", "widgets") for c in MANIFEST[kind]}
    used |= {item["command"] for items in MANIFEST["menus"].values() for item in items}
    assert used == {command["id"] for command in MANIFEST["commands"]}


def test_readers_samples_and_writers_are_light():
    names = {c["python_name"].split(":")[0] for c in MANIFEST["commands"]}
    light = sorted(n for n in names if n.split(".")[-1].startswith("_"))
    assert len(light) == 3
    assert loaded_by(light) & {"torch", "numba", "napari", "qtpy"} == set()


def test_widgets_load_nothing_slow():
    pytest.importorskip("qtpy", reason="qtpy, of the napari extra, is not installed")
    names = sorted({c["python_name"].split(":")[0] for c in MANIFEST["commands"]})
    slow = {"torch", "monai", "numba", "scipy.ndimage", "skimage", "pandas", "zarr", "dask"}
    assert loaded_by(names) & slow == set()


def test_the_reader_takes_what_biosegkit_reads(tmp_path):
    from biosegkit_napari._reader import get_reader

    grid = Grid.regular((4, 5), 0.5, "um")
    write(Image(np.ones((1, 4, 5), np.uint8), grid), tmp_path / "a.tif")
    write(Labels.from_values(np.full((4, 5), 70000), grid, "instance"), tmp_path / "a_labels.tif")
    (image, labels) = get_reader([str(tmp_path / "a.tif"), str(tmp_path / "a_labels.tif")])(
        [str(tmp_path / "a.tif"), str(tmp_path / "a_labels.tif")])
    assert (image[2], labels[2]) == ("image", "labels")
    assert labels[0].max() == 70000
    assert labels[1]["scale"] == (0.5, 0.5)
    assert get_reader("notes.txt") is None
    assert get_reader([]) is None


def test_a_folder_of_dicom_is_ours_and_what_has_no_pixels_is_refused_with_a_remedy(tmp_path):
    from biosegkit_napari._reader import get_reader

    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    assert get_reader(str(tmp_path)) is None
    reader = get_reader(str(tmp_path / "scan"))
    with pytest.raises(FileError, match="take this file out of the folder, or convert the series"):
        reader(str(tmp_path / "scan"))


def test_labels_inside_a_zarr_are_opened_with_it(tmp_path):
    from biosegkit_napari._reader import read_layers

    grid = Grid.regular((4, 5), 0.5, "um")
    write(Image(np.ones((1, 4, 5), np.uint8), grid), tmp_path / "a.ome.zarr")
    write(Labels.from_values(np.full((4, 5), 3), grid, "instance"), tmp_path / "a.ome.zarr" / "labels" / "cells")
    assert [(kind, settings["name"]) for _, settings, kind in read_layers(str(tmp_path / "a.ome.zarr"))] == [
        ("image", "a"), ("labels", "a cells")]


@pytest.mark.usefixtures("napari")
@pytest.mark.parametrize("ending", [".nii.gz", ".ome.tif", ".ome.zarr"])
def test_the_writer_keeps_values_and_place(tmp_path, ending):
    from biosegkit_napari._writer import write_labels
    from napari.layers import Layer

    from biosegkit.viewing import label_layer

    affine = np.array([[0, 0, -0.7, 5], [0, 0.8, 0, -3], [2.5, 0, 0, 9], [0, 0, 0, 1]], float)
    grid = Grid((3, 4, 5), affine, "mm") if ending == ".nii.gz" else Grid.regular((3, 4, 5), (2.5, 0.8, 0.7), "um")
    values = np.random.default_rng(1).integers(0, 4, (3, 4, 5)) * 300
    labels = Labels.from_values(values, grid, "instance")
    layer = Layer.create(*label_layer(labels, "a"))
    data, attributes, _ = layer.as_layer_data_tuple()
    path = tmp_path / f"out{ending}"
    assert write_labels(str(path), data, attributes) == [str(path)]
    again = read_labels(path, "instance")
    np.testing.assert_array_equal(again.restored(), values)
    assert again.grid.mismatch(grid) < 1e-5


@pytest.mark.usefixtures("napari")
def test_outlines_are_written_in_pixels_of_the_whole_image(tmp_path):
    from biosegkit_napari._writer import write_labels
    from napari.layers import Layer

    from biosegkit.viewing import label_layer

    whole = Grid.regular((80, 120), 0.25, "um")
    values = np.zeros((6, 8), np.uint8)
    values[1:3, 2:7], values[4, 0] = 9, 4
    part = Labels.from_values(values, whole.resized((40, 60)).window((10, 20), (6, 8)), "instance")
    objects = {"id": np.array([9, 30]), "score": np.array([0.75, 0.1])}
    data, settings, kind = label_layer(part, "a", objects)
    settings["metadata"]["image"] = whole.to_dict()
    layer = Layer.create(data, settings, kind)
    for path, scale, corner in ((tmp_path / "a.geojson", 2, (10, 20)), (tmp_path / "b.GeoJSON", 1, (0, 0))):
        data, attributes, _ = layer.as_layer_data_tuple()
        write_labels(str(path), data, attributes)
        del layer.metadata["image"]
        layer.metadata["image"] = part.grid.to_dict()  # as of an image of its own
        found = {f["properties"]["name"]: f for f in json.loads(path.read_text("utf-8"))["features"]}
        assert set(found) == {"4", "9"}
        ring = np.array(found["9"]["geometry"]["coordinates"][0])
        low, high = (scale * (np.array(corner) + place) for place in ((1, 2), (3, 7)))
        np.testing.assert_array_equal([ring.min(0)[::-1], ring.max(0)[::-1]], [low, high])
        assert found["9"]["properties"]["measurements"]["Score"] == 0.75
        assert "Score" not in found["4"]["properties"]["measurements"]
    layer.rotate = 30
    data, attributes, _ = layer.as_layer_data_tuple()
    with pytest.raises(DataError, match="do not lie on voxels of their image"):
        write_labels(str(tmp_path / "c.geojson"), data, attributes)
    assert not (tmp_path / "c.geojson").exists()


def test_negative_labels_are_refused_with_a_remedy(tmp_path, napari):
    from biosegkit_napari._writer import write_labels

    with pytest.raises(DataError, match="negative"):
        write_labels(str(tmp_path / "a.tif"), np.array([[-1, 2]]), {"name": "a"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [c["command"].partition(".")[2] for c in MANIFEST["sample_data"]])
def test_samples_are_there_without_a_network(command, monkeypatch):
    import socket

    import biosegkit_napari._samples as samples

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked for"))
    name = next(c["python_name"] for c in MANIFEST["commands"] if c["id"] == f"biosegkit.{command}").partition(":")[2]
    found = getattr(samples, name)()
    kinds = [kind for _, _, kind in found]
    assert kinds == (["image"] if name == "slide" else ["image", "labels"])
    for data, settings, _ in found:
        finest = data[0] if settings.get("multiscale") else data
        assert np.asarray(finest).std() > 0
        assert len(settings["scale"]) == len(settings["units"]) == finest.ndim - settings.get("rgb", False)


def test_the_slide_is_a_pyramid_of_means():
    from biosegkit_samples.microscopy import make_slide

    fine, coarse = make_slide(128, levels=2)
    blocks = fine.reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(blocks - coarse).max() <= 0.5
    np.testing.assert_array_equal(make_slide(128, levels=2)[0], fine)


def test_the_phantom_lies_in_millimetres_as_its_file_says():
    from biosegkit_napari._samples import mri

    (_, image, _), (_, labels, _) = mri()
    grid = read(ROOT / "sample_data/phantom/images/phantom_001.nii.gz").grid
    assert image["units"] == labels["units"] == ("mm",) * 3
    assert image["scale"] == labels["scale"] == grid.spacing
    assert image["translate"] == tuple(reversed(grid.origin))
