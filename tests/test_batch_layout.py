"""How giant images are cut, and labels that are written in pieces."""

from __future__ import annotations

import json

import numpy as np
import pytest

from biosegkit.batch.layout import Costs, Layout, expected_peak, plan_layout
from biosegkit.errors import DataError, OptionError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Labels
from biosegkit.io import label_store, read_labels, write, zarr
from biosegkit.io.label_store import LabelStore
from biosegkit.io.zarr import CHUNK


def test_layouts_cover_the_image_stay_within_memory_and_share_the_work():
    for channels, shape, patch, memory, sharers in [
            (2, (20000, 20000), (256, 256), 2 << 30, 2), (34, (20000, 20000), (256, 256), 2 << 30, 1),
            (2, (700, 900), (256, 256), 2 << 30, 2), (4, (300, 2000, 1500), (32, 160, 160), 4 << 30, 2)]:
        step = tuple(p // 2 for p in patch)
        costs = Costs(channels, 3, patch, step, 1, memory, sharers)
        whole = tuple(slice(0, n) for n in shape)
        layout = plan_layout(whole, shape, Turn(tuple(range(len(shape)))), CHUNK[len(shape)], costs)
        assert layout == Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
        found = layout.all_blocks(1)
        assert sum(int(np.prod(b.shape, dtype=np.int64)) for b in found) == np.prod(shape, dtype=np.int64)
        for starts in (layout.groups, layout.boxes):
            members = layout.members(starts)
            assert sorted(k for group in members for k in group) == list(range(len(found)))
        for group in layout.members(layout.groups):
            read = [found[k].read for k in group]
            columns = np.prod([max(r[a].stop for r in read) - min(r[a].start for r in read)
                               for a in range(1, len(shape))])
            rows = patch[0] + found[0].shape[0]
            assert 4 * channels * rows * columns < memory
        assert (700 << 20) < expected_peak(layout, costs) <= memory
        assert len(layout.members(layout.groups)) >= sharers
    with pytest.raises(OptionError, match="--memory"):
        plan_layout(whole, shape, Turn((0, 1, 2)), CHUNK[3], Costs(400, 1, patch, step, 1, 1 << 28))


def test_chunks_are_written_whole(tmp_path, small_chunks):
    store = LabelStore(tmp_path / "a.ome.zarr", Grid.regular((20, 17)), "uint8")
    store.begin()
    with pytest.raises(DataError, match="whole chunks"):
        store.write((0, 4), np.zeros((8, 8), np.uint8))
    store.write((16, 8), np.ones((4, 9), np.uint8))
    store.finish(np.arange(2))
    assert read_labels(tmp_path / "a.ome.zarr", "instance").array[16:, 8:].all()


@pytest.mark.parametrize("shape", [(70, 33), (9, 40, 37)])
def test_a_store_written_in_pieces_is_the_one_written_at_once(tmp_path, monkeypatch, small_chunks, shape):
    monkeypatch.setattr(zarr, "_SMALLEST", 16)
    monkeypatch.setattr(label_store, "_PIECE", 300)
    values = np.random.default_rng(0).integers(0, 300, shape)
    spacing = (3.0, 0.5, 0.5)[-len(shape):]
    labels = Labels.from_values(values, Grid.regular(shape, spacing, "um"), "instance")
    write(labels, tmp_path / "whole/a.ome.zarr")
    store = LabelStore(tmp_path / "cut/a.ome.zarr", labels.grid, "uint16")
    store.begin()
    for start in range(0, shape[0], 8):
        store.write((start, *(0,) * (len(shape) - 1)), values[start: start + 8])
    store.finish(labels.values)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "cut") for p in (tmp_path / "cut").rglob("*") if p.is_file())
    assert sum(1 for f in files if f.name == "zarr.json") > 3
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
