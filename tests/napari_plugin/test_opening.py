"""A folder of DICOM files, or an enhanced file, dropped on the window: one volume at its place."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_series import CORNER, NORMAL, enhanced, series
from dropping import drop

from biosegkit.errors import FileError

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
