from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramids import halves, multiscale, plain_pyramid, subifds, svs, tissue

from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.grid import Grid
from biosegkit.io import ReadOptions, at_spacing, lazy, open_pyramid, read, rescaled
from biosegkit.io.lazy import Pyramid
from biosegkit.io.rescaled import rescaled as rescale
from biosegkit.kernels import area

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 4000, (3, 70, 90)).astype(np.uint16)


def windows(shape: tuple[int, ...], count: int, seed: int = 0) -> list[tuple[slice, ...]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        ends = [sorted(rng.integers(0, n + 1, 2)) for n in shape]
        out.append(tuple(slice(int(a), int(max(b, a + 1))) if a < n else slice(n - 1, n)
                         for (a, b), n in zip(ends, shape, strict=True)))
    return out


def made(**options: object) -> dict[str, object]:
    return options


TIFFS = {
    "tiles": made(data=GREY, photometric="minisblack", tile=(32, 48), compression="zlib", metadata={"axes": "ZYX"}),
    "strips": made(data=GREY, photometric="minisblack", rowsperstrip=7, compression="lzw", predictor=True,
                   metadata={"axes": "CYX"}),
    "big-endian": made(data=GREY, photometric="minisblack", byteorder=">", metadata={"axes": "ZYX"}),
    "big-endian-packed": made(data=GREY, photometric="minisblack", byteorder=">", compression="zstd",
                              metadata={"axes": "ZYX"}),
    "imagej": made(data=GREY, imagej=True, metadata={"axes": "ZYX"}),
    "planar": made(data=np.moveaxis(tissue((70, 90)), -1, 0), photometric="rgb", planarconfig="separate", metadata=None,
                   tile=(32, 32), compression="zlib"),
    "rgba": made(data=np.concatenate([tissue((70, 90)), tissue((70, 90))[..., :1]], -1), photometric="rgb",
                 extrasamples=["unassalpha"], rowsperstrip=9, compression="deflate"),
    "jpeg": made(data=tissue((70, 90)), photometric="rgb", tile=(32, 32), compression="jpeg"),
    "volumes": made(data=RNG.integers(0, 9, (20, 70, 90)).astype(np.uint8), tile=(16, 32, 32), volumetric=True,
                    compression="zlib", metadata={"axes": "ZYX"}),
    "ome-czyx": made(data=RNG.integers(0, 9, (2, 3, 70, 90)).astype(np.float32), ome=True, tile=(32, 32),
                     compression="zlib", metadata={"axes": "CZYX"}),
    "ome-zcyx": made(data=RNG.integers(0, 9, (3, 2, 70, 90)).astype(np.int16), ome=True, metadata={"axes": "ZCYX"}),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_regions_of_a_tiff_are_those_of_the_whole(tmp_path, kind):
    options = dict(TIFFS[kind])
    tifffile.imwrite(tmp_path / "a.tif", options.pop("data"), **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        stored = tiff.asarray()
    pyramid = open_pyramid(tmp_path / "a.tif")
    image = pyramid.level(0)
    whole = image.array[...]
    assert sorted(np.unique(whole)) == sorted(np.unique(stored[..., :3] if kind == "rgba" else stored))
    np.testing.assert_array_equal(whole, read(tmp_path / "a.tif").array)
    assert (image.array.shape, image.array.dtype) == (whole.shape, whole.dtype)
    for window in windows(whole.shape, 12):
        np.testing.assert_array_equal(image.array[window], whole[window])


def test_axes_in_any_order_become_c_z_y_x(tmp_path):
    stored = np.arange(2 * 3 * 40 * 50, dtype=np.int32).reshape(3, 2, 40, 50)
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, ome=True, tile=(16, 16), metadata={"axes": "ZCYX"})
    array = open_pyramid(tmp_path / "a.ome.tif").level(0).array
    np.testing.assert_array_equal(array[1, 2, 5:9, 40:], stored[2, 1, 5:9, 40:])


def test_indexing_follows_arrays(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="minisblack", metadata={"axes": "ZYX"}, compression="zlib")
    array = open_pyramid(tmp_path / "a.tif").level(0).array
    whole = GREY[None]
    for key in [0, (0, 1), (..., -1), (slice(None), slice(2, None), slice(3, 60, 7), slice(-5, None)), (0, ..., 4),
                (slice(None), slice(1, 1)), (slice(None), slice(None, None, -1)), (0, 2, 69, 89)]:
        np.testing.assert_array_equal(array[key], whole[key])
        assert array[key].shape == whole[key].shape
    np.testing.assert_array_equal(np.asarray(array), whole)
    with pytest.raises(IndexError):
        array[0, 3]
    with pytest.raises(IndexError):
        array[0, 0, 0, 0, 0]


@pytest.mark.parametrize("make", [subifds, plain_pyramid, svs])
def test_levels_of_slides(tmp_path, make):
    levels = halves(tissue((701, 900)), 2)
    made = make(tmp_path / "a.tif", levels, **({} if make is svs else {"photometric": "rgb"}))
    pyramid = open_pyramid(made)
    size = 0.25 if make is subifds else 0.5
    assert [g.shape for g in pyramid.grids] == [a.shape[:2] for a in levels]
    np.testing.assert_allclose([g.spacing for g in pyramid.grids], [[size * 2**k] * 2 for k in range(3)], rtol=1e-6)
    assert (pyramid.channels, pyramid.dtype, pyramid.grids[0].unit) == (("red", "green", "blue"), np.uint8, "um")
    for k, level in enumerate(levels):
        found = pyramid.level(k).array[:, 100:160, 30:170]
        expected = np.moveaxis(level[100:160, 30:170], -1, 0)
        if make is svs:  # JPEG loses a little
            assert np.abs(found.astype(int) - expected).mean() < 2
        else:
            np.testing.assert_array_equal(found, expected)


def test_a_level_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    pyramid = open_pyramid(plain_pyramid(tmp_path / "a.tif", halves(tissue(), 2), photometric="rgb"))
    for k in (-1, 3):
        with pytest.raises(OptionError, match="0 to 2"):
            pyramid.level(k)


def test_levels_lie_in_one_world(tmp_path):
    """The centre of a mean of four is between them; the borders of the first pixels of all levels coincide."""
    pyramid = open_pyramid(subifds(tmp_path / "a.ome.tif", halves(tissue(), 2), photometric="rgb"))
    assert [g.origin for g in pyramid.grids] == [(0.0, 0.0), (0.125, 0.125), (0.375, 0.375)]


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_levels_of_ome_zarr(tmp_path, version):
    array = RNG.integers(0, 60000, (2, 1500, 1100)).astype(np.uint16)
    pyramid = open_pyramid(multiscale(tmp_path / "a.ome.zarr", array, (0.5, 0.5), version))
    assert [g.spacing for g in pyramid.grids] == [(0.5, 0.5), (1.0, 1.0)]
    assert pyramid.grids[1].origin == (0.25, 0.25)
    np.testing.assert_array_equal(pyramid.level(0).array[1, 1000:1100, 3:9], array[1, 1000:1100, 3:9])
    four = array[:, 400:500, 20:30].reshape(2, 50, 2, 5, 2).astype(float).mean((2, 4))
    assert np.abs(pyramid.level(1).array[:, 200:250, 10:15] - four).max() <= 1


def test_nifti_is_mapped_and_scaled(tmp_path):
    array = RNG.integers(-900, 900, (30, 20, 10)).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([2, 3, 4, 1]))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    found = open_pyramid(tmp_path / "a.nii").level(0)
    whole = read(tmp_path / "a.nii").array
    assert found.grid.spacing == (4, 3, 2)
    np.testing.assert_array_equal(found.array[:, 2:5, 1:, 7:9], whole[:, 2:5, 1:, 7:9])
    np.testing.assert_array_equal(whole[0], array.T * 0.5 + 10)


def test_formats_without_regions_are_read_whole(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    pyramid = open_pyramid(tmp_path / "a.nii.gz")
    assert isinstance(pyramid.arrays[0], np.ndarray)
    with pytest.raises(FileError, match="budget"):
        open_pyramid(tmp_path / "a.nii.gz", ReadOptions(memory_budget=10))


def test_options_apply(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.arange(4 * 30 * 40).reshape(4, 30, 40).astype(np.uint16), ome=True,
                     metadata={"axes": "TYX"}, compression="zlib")
    with pytest.raises(DataError, match="4 time points"):
        open_pyramid(tmp_path / "a.ome.tif")
    pyramid = open_pyramid(tmp_path / "a.ome.tif", ReadOptions(frame=2, pixel_size=0.5, channel_names=("DAPI",)))
    assert pyramid.level(0).array[0, 0, :2].tolist() == [2400, 2401]
    assert (pyramid.grids[0].spacing, pyramid.grids[0].unit, pyramid.channels) == ((0.5, 0.5), "um", ("DAPI",))


def test_a_list_of_one_file_is_the_file(tmp_path):
    path = subifds(tmp_path / "a.ome.tif", halves(tissue((70, 90)), 1), photometric="rgb")
    assert open_pyramid([path]).channels == open_pyramid(path).channels == ("red", "green", "blue")
    named = ReadOptions(channel_names=("a", "b", "c"))
    assert open_pyramid([path], named).channels == read([path], named).channels == ("a", "b", "c")
    tifffile.imwrite(path, np.repeat(tissue((70, 90))[..., :1], 3, -1), photometric="rgb")
    for options, count in ((ReadOptions(), 1), (named, 3)):
        assert open_pyramid([path], options).arrays[0].shape == read([path], options).array.shape == (count, 70, 90)


def test_grey_in_three_channels_is_one(tmp_path):
    grey = np.repeat(tissue()[..., :1], 3, -1)
    made = subifds(tmp_path / "a.ome.tif", halves(grey, 1), photometric="rgb")
    pyramid = open_pyramid(made)
    assert [a.shape[0] for a in pyramid.arrays] == [1, 1]
    assert "one channel" in pyramid.notes[-1]
    np.testing.assert_array_equal(pyramid.level(0).array[0, 5:9], grey[5:9, :, 0])
    assert open_pyramid(made, ReadOptions(channel_names=("a", "b", "c"))).arrays[0].shape[0] == 3


def test_a_region_does_not_read_the_image(tmp_path):
    image = np.kron(RNG.integers(0, 255, (64, 64, 3)).astype(np.uint8), np.ones((64, 64, 1), np.uint8))
    made = subifds(tmp_path / "a.ome.tif", [image], photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", image[..., 0])
    for path in (made, tmp_path / "b.tif"):
        tracemalloc.start()
        array = open_pyramid(path).level(0).array
        assert array[:, 2000:2300, 1000:1300].shape[1:] == (300, 300)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < image[..., 0].nbytes / 4


# levels and resampling ----------------------------------------------------------------------------------------------

def pyramid_of(*sizes: float, unit: str = "um", base: int = 64) -> Pyramid:
    grids = [Grid.regular((round(base * sizes[0] / s),) * 2, s, unit) for s in sizes]
    return Pyramid("a.svs", tuple(np.full((1, *g.shape), k, np.uint8) for k, g in enumerate(grids)), tuple(grids))


@pytest.mark.parametrize(("wanted", "level", "shape"), [
    (0.25, 0, 64), (0.26, 0, 64), (0.5, 1, 32), (0.49, 1, 32), (0.52, 1, 32), (0.3, 0, 53), (0.7, 1, 23), (2.0, 2, 16),
    (8.0, 2, 4), (0.1, 0, 160),
])
def test_the_level_that_fits(wanted, level, shape):
    image = at_spacing(pyramid_of(0.25, 0.5, 1.0), (wanted, wanted), "um") if wanted < 8 else \
        at_spacing(pyramid_of(0.25, 0.5, 2.0, base=128), (wanted, wanted), "um")
    if wanted == 2.0:
        level, shape = 2, 8
    assert (int(image.array[0, 0, 0]), image.grid.shape) == (level, (shape, shape))
    assert f"level {level} of 3" in image.notes[-1]
    assert image.grid.spacing[0] == pytest.approx(wanted, rel=0.06)


def test_units_are_converted_and_stacks_keep_their_planes():
    grid = Grid.regular((5, 40, 40), (3.0, 0.5, 0.5), "um")
    image = at_spacing(Pyramid("a", (np.ones((1, 5, 40, 40)),), (grid,)), (1e-3, 1e-3), "mm")
    assert image.grid.spacing == (3.0, 1.0, 1.0)
    with pytest.raises(OptionError, match="2 axes"):
        at_spacing(pyramid_of(0.5), (1, 1, 1), "um")


def test_without_a_pixel_size_nothing_is_guessed():
    with pytest.raises(OptionError, match="--pixel-size") as caught:
        at_spacing(pyramid_of(1.0, unit="px"), (0.5, 0.5), "um")
    assert "0.5 × 0.5 um" in str(caught.value)
    assert at_spacing(pyramid_of(0.25, 0.5), (1, 1), "px").grid.spacing == (0.25, 0.25)


def test_averages_are_those_of_the_area():
    source = RNG.integers(0, 255, (2, 30, 41)).astype(np.uint8)
    found = rescale(source.astype(np.float64), (7, 9))[...]
    fine = np.kron(source, np.ones((1, 7, 9)))  # every pixel cut into so many that all borders are whole
    np.testing.assert_allclose(found, fine.reshape(2, 7, 30, 9, 41).mean((2, 4)), rtol=1e-12)
    assert np.abs(rescale(source, (7, 9))[...] - found).max() <= 0.5 + 1e-4


def test_interpolation_is_linear_between_centres():
    ramp = np.arange(8.0)[None, :, None] * np.ones((1, 8, 3))
    found = rescale(ramp, (24, 3))[0, :, 0]
    np.testing.assert_allclose(found, np.clip((np.arange(24) + 0.5) / 3 - 0.5, 0, 7), atol=1e-12)
    assert area.taps(1, 3, 0, 3).weight.tolist() == [[1.0]] * 3


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 60), st.integers(1, 60)),
       st.integers(0, 99), st.sampled_from([np.uint8, np.float32, np.uint32]))
@settings(max_examples=40, deadline=None)
def test_a_voxel_does_not_depend_on_its_window(old, new, seed, dtype):
    source = (np.random.default_rng(seed).random((2, *old)) * 200).astype(dtype)
    array = rescale(source, new)
    whole = array[...]
    assert whole.dtype == dtype
    for window in windows(array.shape, 4, seed):
        np.testing.assert_array_equal(array[window], whole[window])


def test_pieces_change_nothing(monkeypatch):
    source = RNG.random((2, 90, 70)).astype(np.float32)
    whole = rescale(source, (20, 30))[...]
    monkeypatch.setattr(rescaled, "PIECE", 500)
    asked = []

    class Counted:
        shape, dtype, ndim = source.shape, source.dtype, 3

        def __getitem__(self, key):
            asked.append(source[key].size)
            return source[key]

    np.testing.assert_array_equal(rescale(Counted(), (20, 30))[...], whole)
    assert max(asked) <= 500 < source.size


# damage -------------------------------------------------------------------------------------------------------------

def places(path: Path, level: int = 0) -> tuple[int, int]:
    """Offset and length of the fifth tile of a level."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].pages[0]
        return page.dataoffsets[4], page.databytecounts[4]


@pytest.mark.parametrize(("compression", "part"), [("zlib", 1), ("zlib", 2), ("zstd", 2), ("jpeg", 1), ("jpeg", 2)])
def test_F2_a_damaged_tile_is_refused_when_it_is_read(tmp_path, compression, part):
    made = subifds(tmp_path / "a.ome.tif", halves(tissue(), 1), photometric="rgb", compression=compression)
    offset, count = places(made)
    data = bytearray(made.read_bytes())
    start = offset if part == 1 else offset + count // 2
    data[start : offset + count] = bytes(offset + count - start)
    made.write_bytes(data)
    array = open_pyramid(made).level(0).array
    assert array[:, :128, :256].any()  # the tiles beside it are whole
    with pytest.raises(FileError, match=f"number 4 at offset {offset}"):
        array[:, :10, 600:]


@pytest.mark.parametrize("make", [subifds, plain_pyramid, svs])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
def test_F1_a_cut_slide_is_refused_at_once(tmp_path, make, fraction):
    made = make(tmp_path / "a.tif", halves(tissue(), 2), **({} if make is svs else {"photometric": "rgb"}))
    data = made.read_bytes()
    made.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(FileError):
        open_pyramid(made)


def test_F2_F3_chunks_of_zarr(tmp_path):
    array = RNG.integers(0, 60000, (1, 1500, 1100)).astype(np.uint16)
    made = multiscale(tmp_path / "a.ome.zarr", array, (0.5, 0.5))
    chunk = made / "0/c/0/1/0" if (made / "0/c/0/1/0").exists() else made / "0/c/1/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 16
    chunk.write_bytes(data)
    found = open_pyramid(made).level(0).array
    assert found[:, :900].shape == (1, 900, 1100)
    with pytest.raises(FileError, match="damaged zarr"):
        found[:, 1200:1210, :10]
    chunk.unlink()
    with pytest.raises(FileError, match="chunks"):
        open_pyramid(made)


def test_the_names_the_batch_builds_on():
    assert {"LazyArray", "Pyramid", "at_spacing", "open_pyramid"} <= set(lazy.__all__)


def test_F2_an_end_of_image_in_the_middle_of_a_jpeg_tile_is_damage(tmp_path):
    rng = np.random.default_rng(3)
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, rng.integers(0, 255, (64, 128, 3), np.uint8), tile=(64, 64), photometric="rgb",
                     compression="jpeg")
    assert open_pyramid(file).arrays[0][...].shape == (3, 64, 128)
    with tifffile.TiffFile(file) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    data = bytearray(file.read_bytes())
    data[offset + count // 2 : offset + count // 2 + 2] = b"\xff\xd9"
    file.write_bytes(data)
    found = open_pyramid(file, ReadOptions(channel_names=("red", "green", "blue")))  # grey or not is not looked at
    assert found.arrays[0][:, :, :64].shape == (3, 64, 64)  # the other tile is whole
    with pytest.raises(FileError, match=f"number 1 at offset {offset}"):
        found.arrays[0][...]
