"""ROI zips, COCO run lengths and DICOM segmentations, read again by others' readers; the page of a batch."""

from __future__ import annotations

import html
import json
import re
import zipfile
from urllib.parse import unquote

import numpy as np
import pycocotools.mask
import pytest
import roifile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage import measure
from skimage.draw import polygon2mask

from biosegkit.batch.report import Run, write_batch_report
from biosegkit.errors import DataError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.outputs import (
    Found,
    boxed,
    write_all,
    write_coco,
    write_csv,
    write_dicom,
    write_parquet,
    write_rois,
)
from biosegkit.outputs.rois import _Zip
from biosegkit.predict import Outcome


def blobs(shape, seed=0, share=50):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1)
    return measure.label(noise < np.percentile(noise, share)).astype(np.uint16)


def pixels(region, shape):
    """What a region covers: the centres of pixels that lie in an odd number of its rings."""
    inside = np.zeros(shape, bool)
    for ring in region.coordinates(multi=True):
        inside ^= polygon2mask(shape, np.asarray(ring, float)[:, ::-1] - 0.5)
    return inside


def counts_of(text):
    """COCO's text to numbers, written from its description."""
    found, at = [], 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[at]) - 48
            value |= (code & 31) << shift
            more, shift, at = bool(code & 32), shift + 5, at + 1
            if not more and code & 16:
                value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
    return found


def decoded(segmentation):
    counts = counts_of(segmentation["counts"])
    assert all(c > 0 for c in counts[1:]), "runs are as long as they can be"
    assert sum(counts) == np.prod(segmentation["size"])
    flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
    return flat.reshape(segmentation["size"][::-1]).T


def test_rois_are_the_objects_as_an_independent_reader_sees_them(tmp_path):
    labels = blobs((40, 50), seed=2)
    write_rois(Found.of(labels, Grid.regular(labels.shape)), tmp_path / "a.zip")
    regions = roifile.roiread(tmp_path / "a.zip")
    assert {r.name for r in regions} == {str(i) for i in np.unique(labels)[1:]}
    assert {r.roitype.name for r in regions} == {"POLYGON", "RECT"}, "plain ones and composites"
    for region in regions:
        assert np.array_equal(pixels(region, labels.shape), labels == int(region.name))
        assert region.position == region.z_position == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None


def test_rois_of_a_stack_lie_on_their_planes(tmp_path):
    labels = np.zeros((3, 12, 9), np.uint8)
    labels[:2, 2:9, 3:7], labels[2, 1:4, 1:4] = 4, 9
    write_rois(Found.of(labels, Grid.regular(labels.shape)), tmp_path / "a.zip")
    regions = roifile.roiread(tmp_path / "a.zip")
    assert [(r.name, r.z_position) for r in regions] == [("4-1", 1), ("4-2", 2), ("9-3", 3)]
    for region in regions:
        number, plane = map(int, region.name.split("-"))
        assert np.array_equal(pixels(region, labels.shape[1:]), labels[plane - 1] == number)


@pytest.mark.parametrize(("corner", "scale"), [(40000, 1.0), (70000, 1.0), (10, 0.5), (70000, 0.25)])
def test_rois_far_out_or_between_pixels_keep_their_corners(tmp_path, corner, scale):
    """16 bits reach to 60 000; beyond, and between pixels, corners are floating-point numbers."""
    labels = np.zeros((3, corner + 4), np.uint8)
    labels[1:3, corner: corner + 3] = 1
    found = Found(labels, boxed(labels), Grid.regular(labels.shape), scale=(scale, scale))
    write_rois(found, tmp_path / "a.zip")
    region = roifile.roiread(tmp_path / "a.zip")
    region = region[0] if isinstance(region, list) else region
    truth = np.array([[corner, 1], [corner + 3, 1], [corner + 3, 3], [corner, 3]]) * scale
    assert {tuple(p) for p in np.asarray(region.coordinates()).tolist()} == {tuple(p) for p in truth.tolist()}


def test_a_zip_of_very_many_members_is_read_by_others(tmp_path):
    with (tmp_path / "a.zip").open("wb") as file:
        archive = _Zip(file)
        for k in range(70000):
            archive.add(f"{k}.roi", b"%d" % k)
        archive.finish()
    with zipfile.ZipFile(tmp_path / "a.zip") as again:
        assert len(again.namelist()) == 70000
        assert again.read("69999.roi") == b"69999"
        assert again.read("0.roi") == b"0"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@settings(deadline=None, max_examples=100)
@given(labels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2)))
def test_coco_masks_are_the_objects(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("coco") / "a.json"
    write_coco(Found.of(labels, Grid.regular(labels.shape), source="a.png"), path)
    data = json.loads(path.read_text("utf-8"))
    assert data["images"] == [{"id": 1, "file_name": "a.png", "height": labels.shape[0], "width": labels.shape[1]}]
    assert {a["object"] for a in data["annotations"]} == set(np.unique(labels).tolist()) - {0}
    for entry in data["annotations"]:
        mask = labels == entry["object"]
        assert np.array_equal(decoded(entry["segmentation"]), mask)
        assert np.array_equal(pycocotools.mask.decode(entry["segmentation"]), mask)
        rows, columns = np.nonzero(mask)
        x, y = int(columns.min()), int(rows.min())
        assert entry["bbox"] == [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        assert entry["area"] == len(rows)


def test_coco_has_classes_scores_and_planes(tmp_path):
    labels = np.zeros((2, 6, 5), np.uint8)
    labels[0, 1:3, 1:4], labels[1, 2:5, 2:4], labels[1, 0, 0] = 1, 1, 2
    table = {**boxed(labels), "class": np.array([3, 7]), "score": np.array([0.25, np.nan])}
    found = Found.of(labels, Grid.regular(labels.shape), table, classes={3: "cell", 7: "débris"})
    write_coco(found, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert data["categories"] == [{"id": 3, "name": "cell"}, {"id": 7, "name": "débris"}]
    assert [i["plane"] for i in data["images"]] == [0, 1]
    assert [(a["image_id"], a["object"], a["category_id"], a.get("score")) for a in data["annotations"]] == [
        (1, 1, 3, 0.25), (2, 2, 7, None), (2, 1, 3, 0.25)]
    for entry in data["annotations"]:
        assert np.array_equal(decoded(entry["segmentation"]), labels[entry["image_id"] - 1] == entry["object"])
    assert len({a["id"] for a in data["annotations"]}) == 3


def test_coco_of_an_image_too_large_for_its_readers_is_refused(tmp_path):
    labels = np.broadcast_to(np.zeros((), np.uint8), (1 << 16, 1 << 16))
    table = boxed(np.zeros((1, 1), np.uint8))
    with pytest.raises(DataError, match="write GeoJSON instead"):
        write_coco(Found(labels, table, Grid.regular(labels.shape)), tmp_path / "a.json")


def test_dicom_of_classes_is_read_back_where_it_was(tmp_path):
    import highdicom

    labels = np.zeros((4, 6, 5), np.uint8)
    labels[1:3, 2:5, 1:3], labels[2:, 0, 3:] = 1, 2
    affine = np.array([[0.5, 0, 0.8, -3], [0, 0.7, 0, 11], [2.5, 0, 0, 40], [0, 0, 0, 1]], float)
    affine[:3, :3] = np.array([[0, 0, 0.8], [0, 0.7, 0], [2.5, 0, 0]])
    grid = Grid(labels.shape, affine, "mm")
    table = {**boxed(labels), "class": np.array([10, 20])}
    found = Found.of(labels, grid, table, classes={10: "liver", 20: "tumour"}, source="case 1")
    write_dicom(found, tmp_path / "a.dcm")
    again = highdicom.seg.segread(tmp_path / "a.dcm")
    assert [again.get_segment_description(k).segment_label for k in (1, 2)] == ["liver", "tumour"]
    assert "ReferencedSeriesSequence" not in again
    volume = again.get_volume(combine_segments=True)
    for z, y, x in np.argwhere(labels):
        world = affine @ [z, y, x, 1]
        place = np.linalg.inv(volume.affine) @ [-world[0], -world[1], world[2], 1]  # left, posterior, superior
        index = tuple(np.rint(place[:3]).astype(int))
        np.testing.assert_allclose(place[:3], index, atol=1e-4)
        assert volume.array[index] == labels[z, y, x]
    assert np.count_nonzero(volume.array) == np.count_nonzero(labels)
    first = (tmp_path / "a.dcm").read_bytes()
    write_dicom(found, tmp_path / "b.dcm")
    assert highdicom.seg.segread(tmp_path / "b.dcm").SOPInstanceUID == again.SOPInstanceUID
    assert len(first) > 0


def test_many_frames_of_dicom_are_deflated_and_read_back(tmp_path, monkeypatch):
    import highdicom

    from biosegkit.outputs import dicom

    labels = np.kron(np.arange(1, 26).reshape(5, 5), np.pad(np.ones((12, 12), int), 2)).astype(np.int32)
    found = Found.of(labels, Grid.regular(labels.shape, 0.5, "um"), source="a.tif")
    write_dicom(found, tmp_path / "plain.dcm")
    monkeypatch.setattr(dicom, "LARGE", 1000)
    write_dicom(found, tmp_path / "deflated.dcm")
    plain, deflated = (highdicom.seg.segread(tmp_path / f"{name}.dcm") for name in ("plain", "deflated"))
    assert deflated.file_meta.TransferSyntaxUID.is_deflated
    assert not plain.file_meta.TransferSyntaxUID.is_deflated
    assert np.array_equal(deflated.pixel_array, plain.pixel_array)
    assert deflated.pixel_array.sum() == np.count_nonzero(labels) == 25 * 144
    assert 2 * (tmp_path / "deflated.dcm").stat().st_size < (tmp_path / "plain.dcm").stat().st_size


def test_dicom_of_objects_and_what_it_cannot_hold(tmp_path):
    import highdicom

    labels = np.kron([[0, 3, 3], [5, 0, 3]], np.ones((3, 3), int))  # the package packs frames below 8 pixels wrongly
    grid = Grid.regular(labels.shape, 0.5, "um")
    write_dicom(Found.of(labels, grid, source="a.tif"), tmp_path / "a.dcm")
    again = highdicom.seg.segread(tmp_path / "a.dcm")
    assert [d.segment_label for d in map(again.get_segment_description, (1, 2))] == ["object 3", "object 5"]
    assert again.get_volume(combine_segments=True).array[:, ::3, ::3].tolist() == [[[0, 1, 1], [2, 0, 1]]]
    assert again.get_volume(combine_segments=True).spacing[1:] == pytest.approx((0.0005, 0.0005))
    write_dicom(Found.of(labels * 0, grid, source="a.tif"), tmp_path / "0.dcm")
    nothing = highdicom.seg.segread(tmp_path / "0.dcm")
    assert nothing.get_segment_description(1).segment_label == "nothing found"
    assert not nothing.get_volume(combine_segments=True).array.any()
    for values, unit, message in ((labels, "px", "no voxel size"),
                                  (np.arange(1, 1002).reshape(1, -1), "um", "1001 objects")):
        with pytest.raises(DataError, match=message):
            write_dicom(Found.of(values, Grid.regular(values.shape, 1.0, unit)), tmp_path / "b.dcm")
    assert not (tmp_path / "b.dcm").exists()


def test_parquet_holds_what_the_csv_holds(tmp_path):
    import pyarrow.parquet

    table = {"id": np.arange(1, 5, dtype=np.uint32), "score": np.array([0.5, np.nan, 1, 0], np.float32)}
    write_parquet(table, tmp_path / "a.parquet")
    write_csv(table, tmp_path / "a.csv")
    again = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert again.column_names == ["id", "score"]
    assert again["id"].type == "uint32"
    np.testing.assert_array_equal(again["score"].to_numpy(), table["score"])


def test_the_page_of_a_batch_shows_failures_first_and_loads_nothing(tmp_path):
    grid = Grid.regular((30, 40))
    labels = blobs((30, 40))
    image = Image(np.random.default_rng(0).random((1, 30, 40)), grid)
    write_all(Found.of(labels, grid), image, tmp_path / "sub", "a", ["thumbnail"])
    outcomes = [
        Outcome("in/a.tif", str(tmp_path / "sub/a.tif"), "done", None, 2.5, 1234),
        Outcome("in/<b>.tif", str(tmp_path / "b.tif"), "failed", "in/<b>.tif: found 3 bytes; expected a TIFF"),
        Outcome("in/c.tif", str(tmp_path / "c.tif"), "kept", None, 0.0, 1, ("read as one channel",)),
    ]
    page = write_batch_report(tmp_path, outcomes, about={"model": "run/"}).read_text("utf-8")
    order = [page.index(text) for text in ("expected a TIFF", "read as one channel", "1234 objects", "Made with")]
    assert order == sorted(order), "failures, then what has notes, then the others"
    assert "&lt;b&gt;" in page
    assert "<b>.tif" not in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("no picture") == 1
    assert not re.findall(r"src=\"(?!data:)", page)
    assert not re.findall(r"<(?:link|script|iframe|object)", page)
    assert "2 of 3 images done, 1 failed</p>" in page
    tiles = re.findall(r'<div class="tile"><b>(.*?)</b><span>(.*?)</span>', page)
    assert tiles[:2] == [("1 235", "objects"), ("1", "kept from before")]


def test_the_page_of_a_batch_says_what_to_do_and_leads_to_the_files(tmp_path):
    for name in ("a.tif", "a.csv", "a b#1.tif", "a b#1.geojson"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "sub" / name).write_bytes(b"")
    full = "cannot write: No space left on device; expected a writable folder with free space. free space"
    outcomes = [
        Outcome("in/a.tif", str(tmp_path / "sub/a.tif"), "done", None, 60.0, 0, ("no pixel size", "dark")),
        Outcome("in/a b#1.tif", str(tmp_path / "sub/a b#1.tif"), "done", None, 60.0, 7, ("no pixel size",)),
        *(Outcome(f"in/{k}.svs", str(tmp_path / f"{k}.ome.zarr"), "failed", f"out/.{k}.work/0: found {full}")
          for k in "xyz"),
        Outcome("in/w.svs", str(tmp_path / "w.ome.zarr"), "failed", "in/w.svs: found 3 bytes; expected a TIFF"),
    ]
    command = "biosegkit predict 'my run' in -o out --resume"
    page = write_batch_report(tmp_path, outcomes, run=Run(seconds=75, command=command)).read_text("utf-8")
    assert '<p class="verdict bad">2 of 6 images done, 4 failed</p>' in page
    assert html.unescape(page).count(command) == 1
    tiles = {name: value for value, name in re.findall(r'<div class="tile"><b>(.*?)</b><span>(.*?)</span>', page)}
    assert tiles["image without objects"] == "1"
    assert tiles["from start to end"] != tiles["of work on all images"]
    assert page.count("No space left") == 1, "one reason, three images"
    assert "<b>3 images</b><br>in/x.svs<br>in/y.svs<br>in/z.svs</td>" in page
    assert page.count("in/w.svs: found 3 bytes") == 1
    assert page.count(">0 objects<") == 1
    assert page.count("<li>no pixel size</li>") == 1, "what is to be said of all is said once"
    assert page.count("<li>dark</li>") == 1
    links = set(re.findall(r'<a href="(.*?)">(.*?)</a>', page))
    assert links == {("sub/a.tif", "labels"), ("sub/a.csv", "csv"), ("sub/a%20b%231.tif", "labels"),
                     ("sub/a%20b%231.geojson", "geojson")}
    assert all((tmp_path / unquote(address)).exists() for address, _ in links)
    good = write_batch_report(tmp_path, outcomes[:2], run=Run(command=command)).read_text("utf-8")
    assert '<p class="verdict good">2 of 2 images done</p>' in good
    assert command not in html.unescape(good), "nothing is left to do"
