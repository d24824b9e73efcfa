"""Damaged and lying files are refused, with the path; nothing is allocated for a lie (F1-F7, D5)."""

import struct

import numpy as np
import pytest
from faults import make
from faults.make import put

from biosegkit.errors import BiosegError, FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import ReadOptions, peek, read, read_labels, write

STACK = np.random.default_rng([1]).integers(0, 200, (12, 16, 20), dtype=np.uint8)


def refused(path, kind=FileError, **options):
    with pytest.raises(kind) as caught:
        read(path, ReadOptions(**options))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_F1_cut_nii_gz_is_refused(tmp_path, fraction):
    refused(put(tmp_path, "a.nii.gz", make.cut(make.pack(make.nifti(STACK)), fraction)))


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.9, 0.9999])
def test_F1_cut_nii_is_refused(tmp_path, fraction):
    refused(put(tmp_path, "a.nii", make.cut(make.nifti(STACK), fraction)))


def test_F1_the_message_names_the_offset(tmp_path):
    data = make.cut(make.pack(make.nifti(STACK)), 0.5)
    assert f"of {len(data)}" in refused(put(tmp_path, "a.nii.gz", data))


TIFFS = {
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "ome_zlib": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "shaped": {"metadata": {"axes": "ZYX"}},
    "plain": {"metadata": None},
    "tiled": {"tile": (16, 16)},
    "volume": {"volumetric": True, "tile": (16, 16, 16), "metadata": {"axes": "ZYX"}},
}


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", TIFFS)
def test_F1_cut_tiff_stack_is_refused_not_read_as_one_page(tmp_path, kind, fraction):
    stack = np.random.default_rng([2]).integers(0, 2**16, (24, 48, 48), dtype=np.uint16)
    data = make.tiff(stack, **TIFFS[kind])
    whole = put(tmp_path, "whole.tif", data)
    assert np.array_equal(read(whole).array[0], stack)
    refused(put(tmp_path, "cut.tif", make.cut(data, fraction)))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.995])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_F1_cut_picture_is_refused(tmp_path, ending, fraction):
    import PIL.Image

    PIL.Image.fromarray(STACK[0].repeat(8, 0).repeat(8, 1)).save(tmp_path / f"whole.{ending}")
    data = make.cut((tmp_path / f"whole.{ending}").read_bytes(), fraction)
    refused(put(tmp_path, f"cut.{ending}", data))


def test_F2_flipped_bit_in_nii_gz_is_refused(tmp_path):
    data = make.pack(make.nifti(STACK))
    rng = np.random.default_rng([3])
    silent = 0
    for bit in rng.integers(8 * 10, 8 * len(data), 60):
        path = put(tmp_path, "a.nii.gz", make.flip(data, int(bit)))
        try:
            silent += not np.array_equal(read(path).array[0], STACK.T)
        except BiosegError:
            continue
    assert silent == 0


def test_F2_flipped_bit_in_png_is_refused(tmp_path):
    import PIL.Image

    PIL.Image.fromarray(STACK[0]).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for bit in np.random.default_rng([4]).integers(8 * 8, 8 * len(data), 60):
        refused(put(tmp_path, "a.png", make.flip(data, int(bit))))


def test_F2_flipped_bit_in_the_voxels_of_our_tiff_is_refused(tmp_path):
    import tifffile

    write(Image(STACK[None], Grid.regular(STACK.shape, 1.0, "um")), tmp_path / "whole.tif")
    data = (tmp_path / "whole.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        page = tiff.pages[3]
        start, count = page.dataoffsets[0], page.databytecounts[0]
    for bit in np.random.default_rng([5]).integers(8 * start, 8 * (start + count), 40):
        refused(put(tmp_path, "a.tif", make.flip(data, int(bit))))


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "a.ome.zarr"
    write(Image(STACK[None], Grid.regular(STACK.shape, 1.0, "um")), path)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_F2_flipped_bit_in_our_zarr_is_refused(tmp_path, version):
    path = tmp_path / "a.ome.zarr"
    write(Image(STACK[None], Grid.regular(STACK.shape, 1.0, "um")), path, ngff=version)
    (chunk,) = [p for p in (path / "0").rglob("*") if p.is_file() and not p.name.endswith(("json", "zarray", "zattrs"))]
    data = chunk.read_bytes()
    for bit in np.random.default_rng([6]).integers(0, 8 * len(data), 40):
        chunk.write_bytes(make.flip(data, int(bit)))
        refused(path)


def test_F1_cut_zarr_chunk_is_refused(store):
    chunk = store / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(make.cut(chunk.read_bytes(), 0.5))
    assert "as written" in refused(store)


def test_F3_lost_chunk_is_refused_even_if_it_was_empty(tmp_path):
    path = tmp_path / "a.zarr"
    write(Labels.from_values(np.zeros((64, 300, 300), np.uint8), Grid.regular((64, 300, 300)), "semantic"), path)
    (path / "0" / "c" / "1" / "0" / "1").unlink()
    assert "chunks 7" in refused(path)


def test_F3_changed_array_metadata_are_refused(store):
    header = store / "0" / "zarr.json"
    header.write_text(header.read_text().replace('"uint8"', '"int8"'))
    refused(store)


def test_F3_changed_affine_is_refused(store):
    header = store / "zarr.json"
    text = header.read_text()
    assert '"unit": "um"' in text
    header.write_text(text.replace('"unit": "um"', '"unit": "mm"'))
    refused(store)


@pytest.mark.parametrize(("name", "data"), [
    ("a.nii.gz", make.nifti(STACK)), ("a.nii", make.pack(make.nifti(STACK))), ("a.tif", make.nifti(STACK)),
    ("a.png", make.tiff(STACK[0])), ("a.tif", b""), ("a.nii.gz", b""), ("a.png", b"hello, world, this is no image"),
    ("a.nii.gz", make.pack(b"no nifti" * 100)), ("a", b"\0" * 1000), ("a.nii", b"\0" * 1000),
], ids=lambda v: v if isinstance(v, str) else "")
def test_F4_wrong_ending_empty_or_unknown_file_is_refused(tmp_path, name, data):
    refused(put(tmp_path, name, data))


def test_F4_folder_and_missing_file_are_refused(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    refused(tmp_path / "folder.tif")
    refused(tmp_path / "missing.tif")


def test_F4_without_an_ending_the_content_decides(tmp_path):
    assert np.array_equal(read(put(tmp_path, "noname", make.tiff(STACK[0]))).array[0], STACK[0])


@pytest.mark.parametrize("packed", [False, True])
def test_F5_nifti_header_that_claims_30000_cubed_is_refused(tmp_path, packed):
    lie = make.nifti(np.zeros((2, 2, 2), np.uint8), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    path = put(tmp_path, "a.nii.gz" if packed else "a.nii", make.pack(lie) if packed else lie)
    assert "claims" in refused(path, memory_budget=1 << 62)
    with pytest.raises(FileError, match="claims"):
        peek(path, ReadOptions(memory_budget=1 << 62))


def test_F5_tiff_that_claims_more_than_it_holds_is_refused(tmp_path):
    lie = make.tiff(np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=64, metadata=None)
    for tag in (256, 257, 278):
        lie = make.tiff_tag(lie, tag, 60000)
    assert "claims" in refused(put(tmp_path, "a.tif", lie), memory_budget=1 << 62)


def test_F5_png_that_claims_more_than_it_holds_is_refused(tmp_path):
    import zlib

    data = bytearray(make.png(np.zeros((4, 4), np.uint8), 0))
    data[16:24] = struct.pack(">II", 12000, 12000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    refused(put(tmp_path, "a.png", bytes(data)))


def test_F5_zarr_larger_than_the_budget_is_refused_before_reading(tmp_path):
    import zarr

    array = zarr.create_array(tmp_path / "a.zarr", shape=(1 << 20, 1 << 20), chunks=(256, 256), dtype="u1")
    assert array.shape[0] == 1 << 20
    assert "memory budget" in refused(tmp_path / "a.zarr")


def test_F5_honest_large_image_is_peeked_at_but_not_read(tmp_path):
    path = put(tmp_path, "a.nii.gz", make.pack(make.nifti(STACK)))
    assert "memory budget" in refused(path, memory_budget=STACK.size - 1)
    assert peek(path, ReadOptions(memory_budget=1)).bytes == STACK.size
    assert read(path, ReadOptions(memory_budget=STACK.size)).array.size == STACK.size


def test_F6_page_loop_is_refused(tmp_path):
    data = make.tiff_loop(make.tiff(STACK, metadata=None))
    assert "loop" in refused(put(tmp_path, "a.tif", data))


def test_F6_too_many_pages_are_refused(tmp_path, monkeypatch):
    import biosegkit.io.tiffwalk as walk

    monkeypatch.setattr(walk, "MAX_PAGES", 11)
    assert "more than 11 pages" in refused(put(tmp_path, "a.tif", make.tiff(STACK, metadata=None)))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.ome.zarr"])
def test_F7_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, name):
    import os

    path = tmp_path / name
    image = Image(STACK[None], Grid.regular(STACK.shape, 1.0, "um"))
    write(image, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    before = sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError, match="No space"):
        write(Image(STACK[None] + 1, image.grid), path)
    monkeypatch.undo()
    assert np.array_equal(read(path).array, image.array)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".tif", ".png", ".ome.zarr"])
@pytest.mark.parametrize("stem", ["Zelle 1 #3 (ä)", "細胞" * 20, "x" * 230, "100%+&'"])
def test_D5_unusual_names_are_fine(tmp_path, stem, ending):
    path = tmp_path / "größe #1" / (stem + ending)
    labels = Labels.from_values(STACK[0], Grid.regular(STACK[0].shape), "instance")
    write(labels, path, {"run": "x"})
    assert np.array_equal(read_labels(path, "instance").restored(), STACK[0])


def _seeds():
    import io

    import PIL.Image

    stack = STACK.astype(np.uint16)
    out = {"a.nii": make.nifti(stack), "a.nii.gz": make.pack(make.nifti(stack)),
           "ome.tif": make.tiff(stack, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 1.5}, compression="zlib"),
           "imagej.tif": make.tiff(stack, imagej=True, metadata={"axes": "ZYX"}),
           "plain.tif": make.tiff(stack, metadata=None, compression="lzw"),
           "tiled.tif": make.tiff(np.zeros((40, 40, 3), np.uint8), tile=(16, 16), photometric="rgb")}
    for ending, name in (("png", "png"), ("jpg", "jpeg"), ("bmp", "bmp")):
        buffer = io.BytesIO()
        PIL.Image.fromarray(STACK[0]).save(buffer, name)
        out[f"a.{ending}"] = buffer.getvalue()
    return out


@pytest.mark.parametrize("name", _seeds())
def test_F_any_damage_ends_in_data_or_in_our_error(tmp_path, name):
    seed, rng = _seeds()[name], np.random.default_rng([31, len(name)])
    for _ in range(40):
        data = bytearray(seed)
        for at in rng.integers(0, min(len(data), 500), rng.integers(1, 4)):
            data[at] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        path = put(tmp_path, name, bytes(data))
        try:
            assert read(path, ReadOptions(memory_budget=1 << 28)).array.size > 0
        except BiosegError as error:
            assert str(path) in str(error)  # noqa: PT017
