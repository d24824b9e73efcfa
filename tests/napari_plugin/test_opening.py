"""A folder of DICOM files, or an enhanced file, dropped on the window: one volume at its place."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tifffile
from dicom_series import CORNER, NORMAL, enhanced, series
from dropping import drop
from pyramids import halves, ndpi, plain_pyramid, qptiff, scn, subifds, svs, tissue

from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.io import write

pytestmark = pytest.mark.gui


def test_a_dropped_series_and_an_enhanced_file_are_one_volume(make_viewer, application, spin, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (7, 50, 60), np.uint16)
    folder = series(tmp_path / "ct", values)
    file = enhanced(folder, tmp_path / "head.dcm")
    viewer = make_viewer()
    drop(viewer, application, spin, folder)
    drop(viewer, application, spin, file)
    assert [(layer.name, sorted(layer.data.shape)) for layer in viewer.layers] == [
        ("ct", [7, 50, 60]), ("head", [7, 50, 60])]
    for layer in viewer.layers:
        assert {str(unit) for unit in layer.units} == {"millimeter"}
        assert sorted(np.unique(layer.data).tolist()) == sorted(np.unique(values.astype(int) - 1024).tolist())
    first, second = viewer.layers
    np.testing.assert_array_equal(first.data, second.data)
    np.testing.assert_allclose(first.affine.affine_matrix, second.affine.affine_matrix)
    corner = np.array([layer.data_to_world(np.argwhere(layer.data == values[3, 20, 30] - 1024.0)[0])
                       for layer in viewer.layers])
    assert np.ptp(corner, axis=0).max() == 0
    # both lie in the body as the header says: z y x of napari are superior, anterior, right
    wanted = (CORNER + 3 * 2.5 * NORMAL)[::-1] * (1, -1, -1)
    place = first.world_to_data(wanted)
    assert np.abs(place - np.rint(place)).max() < 1e-4
    viewer.layers.clear()
    mixed = series(tmp_path / "mixed", values, SeriesInstanceUID=["1.2.3"] * 3 + ["1.2.4"] * 4)
    with pytest.raises(FileError, match=r"2 DICOM series.*into a folder of its own"):
        viewer.open(str(mixed), plugin="biosegkit")
    assert not viewer.layers


def kinds(folder):
    """A file of every kind that is read: what its layer must hold, the size of its voxels, and their unit."""
    rng = np.random.default_rng(0)
    stack, coloured = rng.integers(0, 4000, (5, 30, 40), np.uint16), tissue((512, 768))
    levels, found = halves(coloured, 2), {}
    for ending, unit in ((".nii", "mm"), (".nii.gz", "mm"), (".ome.tif", "um"), (".ome.zarr", "um")):
        write(Image(stack[None], Grid.regular(stack.shape, (2.0, 0.5, 0.25), unit)), folder / f"stack{ending}")
        found[f"stack{ending}"] = stack, (2.0, 0.5, 0.25), {"mm": "millimeter", "um": "micrometer"}[unit]
    for ending in (".tif", ".tiff"):
        tifffile.imwrite(folder / f"plain{ending}", stack[0])
        found[f"plain{ending}"] = stack[0], (1.0, 1.0), "pixel"
    for ending in (".png", ".bmp"):
        PIL.Image.fromarray(coloured).save(folder / f"photo{ending}")
        found[f"photo{ending}"] = coloured, (1.0, 1.0), "pixel"
    subifds(folder / "pyramid.ome.tif", levels, 0.5, photometric="rgb")
    plain_pyramid(folder / "pages.tif", levels, photometric="rgb")
    scn(folder / "slide.scn", [levels])
    found |= dict.fromkeys(("pyramid.ome.tif", "pages.tif", "slide.scn"), (coloured, (0.5, 0.5), "micrometer"))
    two = [np.moveaxis(level[..., :2], -1, 0) for level in levels]
    qptiff(folder / "slide.qptiff", two, ("DAPI", "CD3"))
    found["slide.qptiff"] = two[0][1], (0.5, 0.5), "micrometer"  # the channel that is added last
    for ending in (".jpg", ".jpeg"):
        PIL.Image.fromarray(coloured).save(folder / f"photo{ending}", quality=95)
        found[f"photo{ending}"] = None, (1.0, 1.0), "pixel"
    svs(folder / "slide.svs", levels)
    ndpi(folder / "slide.ndpi", levels)
    svs(folder / "other.svs", levels).rename(folder / "other.bif")  # OpenSlide looks at what it is
    found |= dict.fromkeys(("slide.svs", "slide.ndpi", "other.bif"), (None, (0.5, 0.5), "micrometer"))
    ids = rng.integers(0, 900, (30, 40)) * 70
    (folder / "labels").mkdir()
    write(Labels.from_values(ids, Grid.regular((30, 40), 0.5, "um"), "instance"), folder / "labels/cells.ome.tif")
    found["labels/cells.ome.tif"] = ids, (0.5, 0.5), "micrometer"
    return found, coloured


def test_every_kind_that_is_read_can_be_dropped_on_the_window(make_viewer, application, spin, tmp_path):
    """Values, size of voxels and unit are those of the file; where JPEG loses a little, nearly so."""
    found, coloured = kinds(tmp_path)
    viewer = make_viewer()
    for name, (wanted, size, unit) in found.items():
        drop(viewer, application, spin, tmp_path / name)
        layer = viewer.layers[-1]
        seen = np.asarray(layer.data[0] if layer.multiscale else layer.data)
        assert layer.metadata["biosegkit"]["source"].endswith(name), name
        assert hasattr(layer, "selected_label") == name.startswith("labels/"), name
        assert sorted(layer.scale) == pytest.approx(sorted(size)), name
        assert {str(one) for one in layer.units} == {unit}, name
        if wanted is None:
            assert seen.shape == coloured.shape, name
            assert np.abs(seen.astype(int) - coloured).mean() < 4, name
        elif name.startswith("stack.nii"):  # whose axes and directions are its own
            assert sorted(seen.shape) == sorted(wanted.shape), name
            np.testing.assert_array_equal(np.sort(seen, axis=None), np.sort(wanted, axis=None), err_msg=name)
        else:
            np.testing.assert_array_equal(seen, wanted, err_msg=name)
        viewer.layers.clear()


def test_samples_are_opened_from_the_menu(make_viewer, application, spin):
    viewer = make_viewer()
    window = viewer.window._qt_window
    kinds = {"2D nuclei": ["image", "labels"], "3D nuclei": ["image", "labels"], "MRI phantom": ["image", "labels"],
             "Slide": ["image"]}
    opened = {}
    for title in kinds:
        actions = window.menuBar().actions()
        for step in ("File", "Open Sample", "biosegkit", title):
            action = next(one for one in actions if one.text().replace("&", "") == step)
            if action.menu():
                action.menu().aboutToShow.emit()
                actions = action.menu().actions()
        action.trigger()
        spin(lambda: viewer.layers)
        application.processEvents()
        opened[title] = [type(layer).__name__.lower() for layer in viewer.layers]
        shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        assert shot.std() > 3, f"{title} is seen"
        viewer.layers.clear()
    assert opened == kinds
