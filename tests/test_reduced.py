"""Thresholds moved without the network: from states and from maps, the same as a full prediction."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from stub_models import CPU, stub_plan
from torch import nn

from biosegkit.errors import OptionError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.prepared import prepare
from biosegkit.segmenter import Segmenter


class Blobs(nn.Module):
    """Logits that follow the value of a voxel; of classes, or of foreground and distance."""

    def forward(self, x):
        x = x[:, :1]
        return {"foreground": 4 * x, "distance": torch.sigmoid(3 * x),
                "classes": torch.cat([-x, x, 2 * x - 1], 1)}


def case(ndim, instance, shape):
    """A plan that turns and crops, and an image with empty rows and smooth noise."""
    plan = stub_plan(ndim, instance=instance, crop=True, transpose=(1, 0) if ndim == 2 else (2, 0, 1))
    keep = ("foreground", "distance") if instance else ("classes",)
    network = Blobs()
    whole = network.forward
    network.forward = lambda x: {k: v for k, v in whole(x).items() if k in keep}
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(shape), 1.5)
    noise /= noise.std()
    noise[..., :3] = 0  # cropped away, so that maps are zero there
    return Segmenter(plan, (network,), CPU, {}), Image(noise[None].astype(np.float32), Grid.regular(shape, unit="mm"))


def same(a, b):
    """Labels, grid, notes and table."""
    np.testing.assert_array_equal(np.asarray(a.labels.array), np.asarray(b.labels.array))
    assert a.labels.grid == b.labels.grid
    assert set(a.objects) == set(b.objects)
    for name, column in b.objects.items():
        np.testing.assert_array_equal(a.objects[name], column, err_msg=name)


@pytest.mark.parametrize(("ndim", "shape"), [(2, (40, 33)), (3, (9, 20, 17)), (2, (5, 20, 17))])
@pytest.mark.parametrize("instance", [True, False])
def test_states_and_maps_decode_to_what_the_network_predicts(ndim, shape, instance):
    segmenter, im = case(ndim, instance, shape)
    live, maps = segmenter.states(im), segmenter.maps(im)
    window = prepare(im, segmenter.plan).window
    found = []
    for thresholds in [{"foreground": 0.45, "seed": 0.1}, {"foreground": 0.9}, {}] if instance else [{}]:
        full = segmenter.predict(im, thresholds=thresholds)
        same(live.decode(thresholds), full)
        assert live.decode(thresholds).notes == full.notes
        same(segmenter.decode(maps, thresholds, im.grid, window), full)
        found.append(np.asarray(full.labels.array))
    assert found[0].any()
    if instance:
        assert not np.array_equal(found[0], found[1])


def test_states_need_no_network():
    segmenter, im = case(2, True, (30, 30))
    live = segmenter.states(im)
    before = live.decode({"foreground": 0.6})

    def forbidden(x):
        raise AssertionError("the network was run")

    segmenter.networks[0].forward = forbidden
    same(live.decode({"foreground": 0.6}), before)
    with pytest.raises(OptionError, match="foreground"):
        live.decode({"foreground": 2.0})
