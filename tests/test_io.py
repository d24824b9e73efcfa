"""What all formats share: options, sidecars, channels in files, and the real data folder."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from biosegkit.errors import BiosegError, OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import ReadOptions, formats, peek, read, read_labels, write

IMAGE = Image(np.arange(20, dtype=np.uint8).reshape(1, 4, 5), Grid.regular((4, 5), 0.5, "um"), notes=("repaired",))


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.nii.gz", "a.ome.zarr"])
def test_the_sidecar_says_what_the_file_is_made_from(tmp_path, name):
    write(IMAGE, tmp_path / name, {"model": "m"})
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["model"] == "m"
    assert record["notes"] == ["repaired"]
    assert Grid.from_dict(record["grid"]) == IMAGE.grid
    if name != "a.ome.zarr":
        assert record["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_no_sidecar_unless_asked(tmp_path):
    write(IMAGE, tmp_path / "a.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("name", ["a", "a.txt", "a.jpg", "a.bmp", "a.svs"])
def test_endings_that_cannot_be_written_are_a_usage_error(tmp_path, name):
    with pytest.raises(OptionError, match=r"\.ome\.zarr"):
        write(IMAGE, tmp_path / name)


@pytest.mark.parametrize("ending", [".tif", ".nii.gz", ".png", ".ome.zarr"])
def test_equal_labels_are_equal_bytes_under_any_name(tmp_path, ending):
    found = Labels.from_values(np.eye(5, dtype=int), Grid.regular((5, 5), 0.5, "um"), "semantic")
    stores = []
    for name in ("one", "another"):
        write(found, tmp_path / name / f"a{ending}")
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        stores.append([(str(p.relative_to(tmp_path / name)), p.read_bytes()) for p in files])
    assert stores[0] == stores[1]


def test_every_format_has_a_reader(tmp_path):
    assert set(formats().values()) == {"zarr", "tiff", "nifti", "nifti.gz", "png", "jpeg", "bmp", "openslide"}


def test_one_file_per_channel(tmp_path):
    for i in range(3):
        write(Image(IMAGE.array + i, IMAGE.grid), tmp_path / f"{i}.tif")
    image = read([tmp_path / f"{i}.tif" for i in range(3)])
    assert image.array[:, 0, 0].tolist() == [0, 1, 2]
    assert image.channels == ("channel 0", "channel 1", "channel 2")
    with pytest.raises(BiosegError, match="3 channels"):
        read([tmp_path / f"{i}.tif" for i in range(3)], ReadOptions(channel_names=("a",)))
    with pytest.raises(OptionError, match="no file"):
        read([])


@pytest.mark.parametrize("options", [{"axes": "zz"}, {"axes": "zy"}, {"axes": "abc"}, {"unit": "furlong"},
                                     {"spacing": (1, -1)}, {"pixel_size": 0}, {"spacing": (float("nan"), 1)}])
def test_impossible_options_are_a_usage_error(options):
    with pytest.raises(OptionError):
        ReadOptions(**options)


def test_importing_io_loads_no_format_and_no_torch():
    code = ("import sys, biosegkit.io; heavy = {'torch', 'monai', 'napari', 'nibabel', 'tifffile', 'zarr', 'PIL'};"
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


DATA = os.environ.get("BIOSEGKIT_DATA")


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="BIOSEGKIT_DATA does not name the folder of real data")
def test_real_files_are_read_and_labels_fit_their_images():
    seen = 0
    for folder in sorted(p for p in Path(DATA or ".").iterdir() if (p / "images").is_dir()):
        files = sorted((folder / "images").iterdir())
        for path in files[:: max(len(files) // 4, 1)]:
            image = read(path)
            assert peek(path).grid == image.grid
            assert np.isfinite(image.array.astype(float)).all()
            stem = path.name.split(".")[0]
            for label in (folder / "labels").glob(f"{stem}.*") if (folder / "labels").is_dir() else ():
                found = read_labels(label, "instance")
                assert isinstance(found, Labels)
                assert found.grid.shape == image.grid.shape
                assert found.count > 0
                seen += 1
    assert seen > 10
