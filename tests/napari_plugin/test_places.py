"""Where a row of a table leads: a voxel of its object, of which little is read, in whatever thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from biosegkit.errors import DataError


def table_of(name, number, **boxes):
    spans = {f"bbox_{end}_{axis}": np.array([place]) for axis, span in boxes.items()
             for end, place in zip(("start", "stop"), span, strict=True)}
    return {name: np.array([number]), **spans}


@pytest.mark.parametrize(("shape", "axes"), [((30, 40), "yx"), ((12, 30, 40), "zyx"), ((3, 12, 30, 40), "tzyx")])
def test_the_place_of_a_row_lies_on_its_object_and_is_found_in_a_thread(model, shape, axes):
    from biosegkit_napari.layers import snapshot
    from biosegkit_napari.measurement import place_in

    values = np.zeros(shape, np.uint32)
    ring = np.add.outer((np.arange(30) - 15) ** 2, (np.arange(40) - 20) ** 2)
    values[..., (ring < 150) & (ring > 60)] = 7
    frame = 2 if "t" in axes else 0
    values[:frame] = 0
    layer = model.add_labels(values, axis_labels=tuple(axes))
    table = table_of("id", 7, y=(3, 28), x=(8, 33), **({"z": (0, 12)} if "z" in axes else {}))
    with ThreadPoolExecutor(1) as thread:
        place = thread.submit(place_in, snapshot(layer), table, 0, frame).result()
    assert values[tuple(map(int, place))] == 7
    assert place == place_in(layer, table, 0, frame)
    values[values == 7] = 0
    with pytest.raises(DataError, match="object 7 is not where it was measured"):
        place_in(snapshot(layer), table, 0, frame)


def test_of_the_finest_resolution_a_plane_is_read(model):
    from biosegkit_napari.layers import snapshot
    from biosegkit_napari.measurement import place_in

    read = []

    class Far(np.ndarray):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            read.append(np.size(found))
            return found

    values = np.ones((64, 48, 48), np.uint8)
    layer = snapshot(model.add_labels([values, values[::2, ::2, ::2]], multiscale=True))
    layer.data = [values.view(Far), layer.data[1]]
    assert place_in(layer, table_of("class", 1, z=(0, 64), y=(0, 48), x=(0, 48)), 0) == (31, 24, 24)
    assert sum(n for n in read if n > 1) <= 48 * 48 + 64
