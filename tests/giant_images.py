"""Images, models and cuts for tests of giant images."""

from __future__ import annotations

import csv
import math
import shutil

import numpy as np
from scipy import ndimage
from stub_models import fresh_weights, stub_plan

from biosegkit.batch.layout import Layout, _cuts
from biosegkit.bundle import load, write_bundle
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read, read_labels, write


def random_cuts(seed):
    """A stand-in for the planning: any blocks, groups of them, and boxes of them and of whole chunks."""
    def cut(window, full, turn, chunk, costs):
        rng = np.random.default_rng(seed)
        unit = [chunk[p] for p in turn.perm]
        block = [int(rng.integers(1, 4)) * u for u in unit]
        block[0] = 1 if costs.planar else block[0] // int(rng.choice([1, 2]))
        group = [int(rng.integers(1, 4)) * b for b in block]
        box = [int(rng.integers(1, 3)) * math.lcm(u, b) for u, b in zip(unit, block, strict=True)]
        sizes = ([_cuts(s[a], window[a], full[a], a in turn.flips) for a in range(len(full))]
                 for s in (block, group, box))
        return Layout(tuple(w.stop - w.start for w in window), *map(tuple, sizes), planar=costs.planar)

    return cut


def textured(shape, seed=1):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return Image(values[None].astype(np.float32), Grid.regular(shape))


def saved(image, path):
    write(image, path)
    return read(path)


def same_as(found, out):
    """Labels and table on disk are those of a prediction in memory."""
    labels = read_labels(out, "instance")
    np.testing.assert_array_equal(labels.restored(), found.labels.restored())
    assert labels.grid == found.labels.grid
    if "id" not in found.objects:
        return
    with out.with_name(out.name.removesuffix(".ome.zarr") + ".csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(found.objects)
    expected = zip(*(np.asarray(c).tolist() for c in found.objects.values()), strict=True)
    assert rows[1:] == [[str(v) for v in row] for row in expected]


def model_of(folder, method, ndim, **options):
    plan = stub_plan(ndim, scheme="zscore", instance=method != "semantic", **options).model_copy(
        update={"method": method})
    sample = textured((61, 46) if ndim == 2 else (9, 22, 19))
    for seed in range(30):  # the first network without training that finds more than a few things
        shutil.rmtree(folder, ignore_errors=True)
        write_bundle(folder, plan, {"0": fresh_weights(plan, seed)})
        model = load(folder, "cpu")
        if len(np.unique(model.segmenter.predict(sample).labels.array)) > (2 if method == "semantic" else 4):
            return model
    raise AssertionError(f"no seed gives objects for {method} in {ndim}D")
