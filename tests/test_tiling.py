"""Tiled maps against brute force; batches, slabs, folds and mirrored copies."""

from itertools import product

import numpy as np
import pytest
import torch
from stub_models import Bands, Context, fresh_weights, image, segmenter, stub_plan

from biosegkit.bundle import load, write_bundle
from biosegkit.ladder import ladder
from biosegkit.lattice import Lattice, gaussian
from biosegkit.tiling import Forward, blend


def brute_force(network, array, patch, step):
    """Every tile, probabilities weighted by the outer Gaussian, summed in float64 over the whole padded image."""
    shape = array.shape[1:]
    starts = [np.floor(np.linspace(0, max(0, n - p), max(0, -(-(n - p) // s)) + 1) + 0.5).astype(int)
              for n, p, s in zip(shape, patch, step, strict=True)]
    padded = [axis[-1] + p for axis, p in zip(starts, patch, strict=True)]
    whole = np.zeros((array.shape[0], *(max(a, b) for a, b in zip(padded, shape, strict=True))), np.float32)
    whole[(slice(None), *(slice(0, n) for n in shape))] = array
    window = 1.0
    for axis, p in enumerate(patch):
        window = window * gaussian(p).reshape([-1 if a == axis else 1 for a in range(len(patch))])
    total, weight = 0.0, np.zeros(whole.shape[1:])
    for start in product(*starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        with torch.inference_mode():
            tile = torch.softmax(network(torch.from_numpy(whole[(slice(None), *place)][None]))["classes"], 1)
        if isinstance(total, float):
            total = np.zeros((tile.shape[1], *whole.shape[1:]))
        total[(slice(None), *place)] += tile[0].numpy().astype(np.float64) * window
        weight[place] += window
    return (total / weight)[(slice(None), *(slice(0, n) for n in shape))]


@pytest.mark.parametrize(("shape", "patch", "step"), [
    ((19, 13, 11), (8, 6, 4), (4, 3, 4)),
    ((8, 6, 4), (8, 6, 4), (4, 3, 2)),
    ((3, 20, 5), (8, 8, 8), (4, 3, 8)),
    ((40, 9), (12, 8), (5, 8)),
    ((1, 1), (8, 8), (4, 4)),
])
def test_streamed_maps_equal_brute_force(shape, patch, step):
    im, ndim = image(shape), len(shape)
    net = Context(ndim)
    found = segmenter(net, stub_plan(ndim, patch=patch, step=step)).predict(im, maps=True)
    expected = brute_force(net, im.array, patch, step)
    np.testing.assert_allclose(found.maps["classes"], expected, atol=2e-6)
    sure = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] > 1e-5
    np.testing.assert_array_equal(found.labels.array[sure], expected.argmax(0)[sure])
    np.testing.assert_array_equal(found.labels.restored(), np.array([0, 3, 7])[found.labels.array])


@pytest.mark.parametrize("planes", [None, 1, 3, 100])
def test_slabs_are_the_same_whatever_their_thickness(planes):
    values = image((21, 10, 9)).array
    lattice = Lattice((21, 10, 9), (8, 8, 8), (3, 4, 5))
    padded = np.pad(values, [(0, 0), (0, 8), (0, 8), (0, 8)])

    def tile(start):
        return padded[(slice(None), *(slice(s, s + 8) for s in start))]

    forward = Forward((Context(),), segmenter(Context(), stub_plan()).method, torch.device("cpu"))
    whole = torch.cat([m["classes"] for _, m in blend(tile, lattice, forward)], 1)
    parts = list(blend(tile, lattice, forward, planes=planes))
    assert torch.equal(torch.cat([m["classes"] for _, m in parts], 1), whole)
    assert planes is None or max(m["classes"].shape[1] for _, m in parts) <= planes
    assert [s for s, _ in parts] == list(np.cumsum([0] + [m["classes"].shape[1] for _, m in parts])[:-1])


def test_X3_batch_size_changes_no_bit():
    plan, im = stub_plan(3, step=(3, 4, 5)), image((20, 17, 12))
    net = Bands()
    first = segmenter(net, plan, batch=1).predict(im, maps=True)
    assert set(net.batches) == {1}
    for batch in (2, 5, 64):
        net = Bands()
        other = segmenter(net, plan, batch=batch).predict(im, maps=True)
        assert min(net.batches) == max(net.batches) > 1
        np.testing.assert_array_equal(other.maps["classes"], first.maps["classes"])
        np.testing.assert_array_equal(other.labels.array, first.labels.array)


@pytest.mark.parametrize("ndim", [2, 3])
def test_X3_batch_and_thread_counts_keep_the_labels_of_a_real_network(tmp_path, ndim):
    plan = stub_plan(ndim, patch=(16,) * ndim, scheme="zscore")
    bundle = load(write_bundle(tmp_path / "b", plan, {"0": fresh_weights(plan)}), "cpu").segmenter
    im = image((24,) * ndim)
    first = segmenter(bundle.networks, plan, batch=1).predict(im, maps=True)
    other = segmenter(bundle.networks, plan, batch=4).predict(im, maps=True)
    np.testing.assert_allclose(other.maps["classes"], first.maps["classes"], atol=1e-5)
    assert (other.labels.array != first.labels.array).mean() < 1e-3
    assert ladder(plan, torch.device("cpu"))[0].batch == 1


def test_folds_average_probabilities():
    class Fixed(Bands):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, x):
            return {"classes": self.logits.reshape(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])}

    plan, im = stub_plan(2, values=(0, 1)), image((9, 9))
    maps = segmenter((Fixed([0.0, 9.0]), Fixed([1.0, 0.0])), plan).maps(im)["classes"]
    p, q = 1 / (1 + np.exp(-9.0)), 1 / (1 + np.e)
    np.testing.assert_allclose(maps[1], (p + q) / 2, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_tta_averages_every_mirrored_copy(ndim):
    plan, net, im = stub_plan(ndim, mirror=(0, 1)), Context(ndim), image((8,) * ndim)
    found = segmenter(net, plan).predict(im, tta=True, maps=True).maps["classes"]
    with torch.inference_mode():
        copies = []
        for axes in ((), (1,), (2,), (1, 2)):
            flipped = torch.from_numpy(np.flip(im.array, axes).copy())[None]
            copies.append(np.flip(net(flipped)["classes"].softmax(1)[0].numpy(), axes))
    np.testing.assert_allclose(found, np.mean(copies, 0), atol=1e-6)
