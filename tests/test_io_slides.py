"""Slides of scanners, stores behind URLs, files with several images; against tiffslide and OpenSlide."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from pyramids import dicom, halves, multiscale, ndpi, plain_pyramid, qptiff, scn, subifds, svs, tissue

from biosegkit.errors import DataError, FileError, OptionError
from biosegkit.io import ReadOptions, at_spacing, open_pyramid, positions, read, slide
from biosegkit.io.formats import remote_url

DATA = os.environ.get("BIOSEGKIT_DATA")
WSI = Path(DATA or ".") / "wsi_slides" / "images"
real = pytest.mark.skipif(not DATA, reason="needs BIOSEGKIT_DATA")
REAL = ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.ome.tif"]
RNG = np.random.default_rng(7)


# scanners -----------------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings("ignore:hamamatsu-format metadata parsing only partially")
def test_ndpi_is_read_interval_by_interval(tmp_path):
    tiffslide = pytest.importorskip("tiffslide")
    levels = halves(tissue((512, 768)), 2)
    made = ndpi(tmp_path / "a.ndpi", levels)
    pyramid = open_pyramid(made)
    assert [g.shape for g in pyramid.grids] == [(512, 768), (256, 384), (128, 192)]
    np.testing.assert_allclose([g.spacing[0] for g in pyramid.grids], [0.5, 1, 2])
    assert pyramid.channels == ("red", "green", "blue")
    with tiffslide.TiffSlide(made) as other:
        for k, level in enumerate(levels):
            found = np.moveaxis(pyramid.level(k).array[:, 20:99, 30:177], 0, -1)
            expected = other.read_region((30 * 2**k, 20 * 2**k), k, (147, 79), as_array=True)
            np.testing.assert_array_equal(found, expected)
            assert np.abs(found.astype(int) - level[20:99, 30:177]).mean() < 2


def test_F1_a_cut_ndpi_is_refused_at_once(tmp_path):
    made = ndpi(tmp_path / "a.ndpi", halves(tissue((512, 768)), 1))
    data = made.read_bytes()
    for fraction in (0.2, 0.7, 0.95):
        made.write_bytes(data[: int(len(data) * fraction)])
        with pytest.raises(FileError):
            open_pyramid(made)


def test_F6_a_loop_of_ndpi_pages_ends(tmp_path):
    made = ndpi(tmp_path / "a.ndpi", [tissue((64, 64))])
    data = bytearray(made.read_bytes())
    first = int.from_bytes(data[4:12], "little")
    after = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[after : after + 8] = data[4:12]
    made.write_bytes(data)
    with pytest.raises(FileError, match="loop"):
        open_pyramid(made)


def test_leica_the_scanned_region_is_read_and_not_the_whole_slide(tmp_path):
    levels = halves(tissue((300, 260)), 1)
    pyramid = open_pyramid(scn(tmp_path / "a.scn", [levels]))
    assert [g.shape for g in pyramid.grids] == [(300, 260), (150, 130)]
    np.testing.assert_allclose([g.spacing[0] for g in pyramid.grids], [0.5, 1], rtol=1e-3)
    np.testing.assert_array_equal(pyramid.level(1).array[...], np.moveaxis(levels[1], -1, 0))


def test_leica_several_regions_are_positions(tmp_path):
    made = scn(tmp_path / "a.scn", [halves(tissue((300, 260), seed), 1) for seed in (1, 2)])
    with pytest.raises(DataError, match="2 images"):
        open_pyramid(made)
    found = positions(made)
    assert list(found) == ["p0001", "p0002"]
    np.testing.assert_array_equal(open_pyramid(made, found["p0002"]).level(0).array[:, :50],
                                  np.moveaxis(tissue((300, 260), 2), -1, 0)[:, :50])


@pytest.mark.data
@real
@pytest.mark.parametrize("name", REAL)
def test_real_slides_are_those_of_tiffslide_pixel_by_pixel(name):
    tiffslide = pytest.importorskip("tiffslide")
    pyramid = open_pyramid(WSI / name)
    with tiffslide.TiffSlide(WSI / name) as other:
        assert [g.shape[::-1] for g in pyramid.grids] == list(other.level_dimensions)
        if other.properties.get("tiffslide.mpp-x"):
            assert pyramid.grids[0].spacing[1] == pytest.approx(other.properties["tiffslide.mpp-x"])
        for k, (width, height) in enumerate(other.level_dimensions):
            expected = np.moveaxis(other.read_region((0, 0), k, (width, height), as_array=True), -1, 0)
            np.testing.assert_array_equal(pyramid.level(k).array[...], expected)
            y, x = sorted(RNG.integers(0, height, 2)), sorted(RNG.integers(0, width, 2))
            box = np.s_[:, y[0] : y[1] + 1, x[0] : x[1] + 1]
            np.testing.assert_array_equal(pyramid.level(k).array[box], expected[box])


@pytest.mark.data
@real
@pytest.mark.parametrize("name", REAL)
def test_real_slides_at_another_size_are_averages(name):
    pyramid = open_pyramid(WSI / name)
    image = at_spacing(pyramid, (1.5, 1.5), "um")
    whole = image.array[...]
    assert image.grid.spacing == pytest.approx((1.5, 1.5), rel=1e-3)
    window = np.s_[:, 200:300, 111:222]
    np.testing.assert_array_equal(image.array[window], whole[window])
    finest = pyramid.level(0).array[...]
    assert np.abs(whole.mean((1, 2)) - finest.mean((1, 2))).max() < 0.5


MADE = {"svs": svs, "ndpi": ndpi, "scn": lambda path, levels: scn(path, [levels]),
        "zlib": partial(subifds, photometric="rgb"), "jpeg": partial(subifds, photometric="rgb", compression="jpeg")}


@pytest.mark.parametrize("kind", MADE)
def test_F2_F5_damage_is_refused_or_harmless(tmp_path, kind):
    """Bytes changed anywhere: an image of some kind, or an error that names the file; nothing else, nothing endless."""
    made = MADE[kind](tmp_path / f"a.{kind if kind in ('svs', 'ndpi', 'scn') else 'ome.tif'}",
                      halves(tissue((128, 256)), 1))
    data, rng, refused = made.read_bytes(), np.random.default_rng(3), []
    for turn in range(60):
        found = bytearray(data)
        low, high = [(0, len(data)), (0, 2000), (len(data) - 2000, len(data))][turn % 3]
        for place in rng.integers(low, high, turn % 6):  # now and then none
            found[place] = rng.integers(0, 256)
        made.write_bytes(found)
        try:
            pyramid = open_pyramid(made)
            for array, grid in zip(pyramid.arrays, pyramid.grids, strict=True):
                assert array[:, :50].shape[1:] == (min(50, grid.shape[0]), *grid.shape[1:])
        except (FileError, DataError) as error:
            refused.append((turn, str(error)))
    assert len(refused) > 5
    assert all(turn % 6 and str(made) in said for turn, said in refused)  # and never without damage


def test_qptiff_has_its_channels_and_their_names_on_every_level(tmp_path):
    finest = np.random.default_rng(2).integers(0, 4000, (3, 300, 404)).astype(np.uint16)
    levels = [np.ascontiguousarray(finest[:, :: 2**k, :: 2**k]) for k in range(3)]
    pyramid = open_pyramid(qptiff(tmp_path / "a.qptiff", levels, ("DAPI", "Opal 520", "CD3 &amp; CD8")))
    assert [grid.shape for grid in pyramid.grids] == [(300, 404), (150, 202), (75, 101)]
    np.testing.assert_allclose([grid.spacing for grid in pyramid.grids], [(0.5, 0.5), (1, 1), (2, 2)])
    for k, level in enumerate(levels):
        np.testing.assert_array_equal(pyramid.level(k).array[1:, 40:, 9:80], level[1:, 40:, 9:80])
    assert any("thumbnails" in note for note in pyramid.level(0).notes)
    assert pyramid.level(1).channels == ("DAPI", "Opal 520", "CD3 & CD8")
    unnamed = open_pyramid(qptiff(tmp_path / "b.qptiff", levels, ("DAPI", "", "DAPI")))
    assert unnamed.level(0).channels == ("channel 0", "channel 1", "channel 2")


# OpenSlide ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [plain_pyramid, svs])
def test_openslide_reads_what_we_read(tmp_path, make):
    pytest.importorskip("openslide")
    made = make(tmp_path / "a.tif", halves(tissue((701, 900)), 2), **({} if make is svs else {"photometric": "rgb"}))
    ours, raw = open_pyramid(made), slide.raw(made, ReadOptions())
    assert [raw.shape, *(c.shape for c in raw.coarser)] == [(*g.shape, 3) for g in ours.grids]
    assert "OpenSlide" in raw.notes[0]
    for k, window in enumerate([raw.window, *(c.window for c in raw.coarser)]):
        found = window((slice(20, 150), slice(30, 170), slice(0, 3)))
        expected = np.moveaxis(ours.level(k).array[:, 20:150, 30:170], 0, -1)
        assert np.abs(found.astype(int) - expected).max() <= (2 if make is svs else 0)


def test_openslide_levels_off_the_grid_do_not_depend_on_the_window(tmp_path):
    pytest.importorskip("openslide")
    image = tissue((1501, 1307))
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for k, level in enumerate([image, image[: 1501 // 3 * 3 : 3, : 1307 // 3 * 3 : 3][:498, :434]]):
            out.write(level, tile=(128, 128), subfiletype=int(k > 0), metadata=None, compression="zlib",
                      photometric="rgb")
    window = slide.raw(tmp_path / "a.tif", ReadOptions()).coarser[0].window
    whole = window((slice(0, 498), slice(0, 434), slice(0, 3)))
    for y, x in [((3, 77), (5, 300)), ((450, 498), (1, 2)), ((100, 400), (400, 434))]:
        np.testing.assert_array_equal(window((slice(*y), slice(*x), slice(0, 3))), whole[slice(*y), slice(*x)])


def test_openslide_names_what_it_cannot_read(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff no slide")
    with pytest.raises(FileError, match="OpenSlide cannot read"):
        open_pyramid(tmp_path / "a.mrxs")


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.mrxs").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    with pytest.raises(OptionError, match=r"biosegkit\[slides\]"):
        open_pyramid(tmp_path / "a.mrxs")


def test_transparent_pixels_are_glass():
    pixels = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    assert slide._on_glass(pixels, slide._colour("F0E6DC")).tolist() == [[[10, 20, 30], [240, 230, 220],
                                                                          [232, 184, 176]]]


# DICOM --------------------------------------------------------------------------------------------------------------

def test_a_folder_of_dicom_levels_is_one_slide(tmp_path):
    pytest.importorskip("wsidicom")
    levels = halves(tissue((600, 900)), 2)
    pyramid = open_pyramid(dicom(tmp_path / "slide", levels))
    assert [g.shape for g in pyramid.grids] == [a.shape[:2] for a in levels]
    np.testing.assert_allclose([g.spacing[0] for g in pyramid.grids], [0.5, 1, 2])
    for k, level in enumerate(levels):
        np.testing.assert_array_equal(pyramid.level(k).array[:, 77:140, 100:201],
                                      np.moveaxis(level[77:140, 100:201], -1, 0))
    np.testing.assert_array_equal(read(tmp_path / "slide").array, np.moveaxis(levels[0], -1, 0))
    assert list(positions(tmp_path / "slide")) == [""]


@pytest.mark.filterwarnings("ignore:The odd length pixel data")  # pydicom, of each frame that it decodes
@pytest.mark.parametrize("tile", [1, 2, 7])
def test_dicom_frames_of_a_few_pixels_are_read_as_they_are(tmp_path, tile):
    pytest.importorskip("wsidicom")
    level = tissue((20, 31))
    image = read(dicom(tmp_path / "slide", [level], tile=tile))
    np.testing.assert_array_equal(image.array, np.moveaxis(level, -1, 0))


@pytest.mark.parametrize("keep", [0.1, 0.6, 0.99])
def test_F1_a_cut_dicom_slide_is_refused(tmp_path, keep):
    pytest.importorskip("wsidicom")
    file = dicom(tmp_path / "slide", [tissue((600, 900))]) / "0.dcm"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FileError):
        read(tmp_path / "slide")


# stores behind URLs -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_stores_behind_http_are_those_on_disk(tmp_path, server, version):
    array = RNG.integers(0, 60000, (2, 1500, 1100)).astype(np.uint16)
    made = multiscale(tmp_path / "a.ome.zarr", array, (0.5, 0.5), version)
    here, there = open_pyramid(made), open_pyramid(f"{server}/a.ome.zarr")
    assert there.source == f"{server}/a.ome.zarr"
    assert (there.grids, there.channels, there.dtype) == (here.grids, here.channels, here.dtype)
    for k in range(2):
        np.testing.assert_array_equal(there.level(k).array[1, 100:700, 5:50], here.level(k).array[1, 100:700, 5:50])
    np.testing.assert_array_equal(read(made.as_uri()).array, array)


def test_F3_a_chunk_lost_behind_a_url_is_refused(tmp_path, server):
    array = RNG.integers(0, 60000, (1, 1500, 1100)).astype(np.uint16)
    made = multiscale(tmp_path / "a.ome.zarr", array, (0.5, 0.5))
    (made / "0" / "c" / "1" / "0").unlink()
    found = open_pyramid(f"{server}/a.ome.zarr").level(0).array
    np.testing.assert_array_equal(found[0, :1024, :30], array[0, :1024, :30])
    with pytest.raises(FileError, match="lost"):
        found[0, 1000:1100, :30]


def test_S4_S6_stores_behind_urls_are_not_trusted(tmp_path):
    made = multiscale(tmp_path / "a.ome.zarr", np.ones((1, 20, 20), np.uint8), (0.5, 0.5))
    group = zarr.open_group(made)
    ome = group.attrs["ome"]
    ome["multiscales"][0]["datasets"][0]["path"] = "../b.zarr/0"
    group.attrs["ome"] = ome
    with pytest.raises(FileError, match="inside the store"):
        open_pyramid(made.as_uri())


@pytest.mark.parametrize(("url", "error", "said"), [
    ("nothing://a/b.zarr", OptionError, "address"), ("{server}/none.zarr", FileError, "no array"),
])
def test_addresses_that_lead_nowhere(server, url, error, said):
    with pytest.raises(error, match=said):
        open_pyramid(url.format(server=server))


def test_urls_survive_paths():
    assert remote_url(Path("s3://bucket/folder/a.zarr")) == "s3://bucket/folder/a.zarr"
    assert remote_url(Path("file:///data/a.zarr")) == "file:///data/a.zarr"
    assert remote_url("/data/a:/b.zarr") is None


# several images in a file -------------------------------------------------------------------------------------------

def test_time_points_of_a_tiff(tmp_path):
    array = RNG.integers(0, 200, (3, 2, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, ome=True, metadata={"axes": "TCYX"})
    found = positions(tmp_path / "a.ome.tif")
    assert list(found) == ["t0000", "t0001", "t0002"]
    for t, options in enumerate(found.values()):
        np.testing.assert_array_equal(read(tmp_path / "a.ome.tif", options).array, array[t])
    assert list(positions(tmp_path / "a.ome.tif", ReadOptions(frame=1))) == [""]
    assert list(positions(tmp_path / "a.ome.tif", ReadOptions(axes="zcyx"))) == [""]


def test_positions_of_a_tiff_with_their_time_points(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as out:
        out.write(np.full((2, 20, 30), 1, np.uint8), metadata={"axes": "TYX"})
        out.write(np.full((20, 30), 2, np.uint8), metadata={"axes": "YX"})
    found = positions(tmp_path / "a.ome.tif")
    assert list(found) == ["p0000_t0000", "p0000_t0001", "p0001"]
    assert [int(read(tmp_path / "a.ome.tif", o).array.max()) for o in found.values()] == [1, 1, 2]
    assert list(positions(tmp_path / "a.ome.tif", ReadOptions(series=0))) == ["t0000", "t0001"]


def test_levels_and_labels_of_slides_are_no_positions(tmp_path):
    levels = halves(tissue((701, 900)), 2)
    for made in (svs(tmp_path / "a.svs", levels), subifds(tmp_path / "a.ome.tif", levels, photometric="rgb")):
        assert positions(made) == {"": ReadOptions()}


def test_positions_of_stores(tmp_path):
    for name in ("0", "1"):
        multiscale(tmp_path / "many.zarr" / name, np.full((1, 20, 20), int(name) + 3, np.uint8), (0.5, 0.5))
        multiscale(tmp_path / "plate.zarr" / "B" / name / "0", np.full((1, 20, 20), int(name) + 5, np.uint8), (1, 1))
        zarr.open_group(tmp_path / "plate.zarr" / "B" / name, mode="a").attrs["ome"] = {
            "version": "0.5", "well": {"images": [{"path": "0"}]}}
    zarr.open_group(tmp_path / "many.zarr", mode="a").attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    zarr.open_group(tmp_path / "plate.zarr", mode="a").attrs["ome"] = {
        "version": "0.5", "plate": {"wells": [{"path": "B/0"}, {"path": "B/1"}]}}
    for store, names, values in [("many", ["p0000", "p0001"], [3, 4]), ("plate", ["B0_0", "B1_0"], [5, 6])]:
        path = tmp_path / f"{store}.zarr"
        with pytest.raises(DataError, match="2 images"):
            open_pyramid(path)
        for place in (path, path.as_uri()):
            found = positions(place)
            assert list(found) == names
            assert [int(read(place, o).array.max()) for o in found.values()] == values
    with pytest.raises(DataError, match="number 3"):
        open_pyramid(tmp_path / "many.zarr" / "0", ReadOptions(series=3))


def test_one_file_per_channel_with_the_levels_they_share(tmp_path):
    levels = halves(tissue((701, 900))[..., 0], 2)
    paths = [subifds(tmp_path / f"{i}.ome.tif", [np.roll(a, i) for a in levels[: 3 - i]]) for i in range(2)]
    tifffile.imwrite(tmp_path / "2.ome.tif", levels[0].astype(np.uint16) * 9, ome=True, metadata={
        "axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    two, three = open_pyramid(paths), open_pyramid([*paths, tmp_path / "2.ome.tif"], ReadOptions(channel_names="abc"))
    assert ([g.shape for g in two.grids], [g.shape for g in three.grids]) == ([(701, 900), (350, 450)], [(701, 900)])
    assert (three.channels, three.dtype) == (("a", "b", "c"), np.uint16)
    np.testing.assert_array_equal(two.level(1).array[:, 9:99], np.stack([levels[1], np.roll(levels[1], 1)])[:, 9:99])
    whole = read([*paths, tmp_path / "2.ome.tif"]).array
    for c in (slice(0, 3), slice(1, 2), slice(1, 3), slice(2, 3)):
        np.testing.assert_array_equal(three.level(0).array[c, 5:70, 8:99], whole[c, 5:70, 8:99])
    other = subifds(tmp_path / "b.ome.tif", levels[:1], size=0.5)
    with pytest.raises(DataError, match="register"):
        open_pyramid([paths[0], other])
    with pytest.raises(OptionError):
        open_pyramid([])
