"""Attention from the gates to the report: maps on the image's grid, the slice of the overlay, pictures beside it."""

import numpy as np
import pytest
import torch
from small_sets import tiny_plan, write_volumes

from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.loop import make_network
from biosegkit.overlay import Overlay, heat, overlay_of, with_attention
from biosegkit.segmenter import Segmenter, method_of
from biosegkit.train import fit

CPU = torch.device("cpu")


def segmenter(ndim, network="attention_unet", **options):
    plan = tiny_plan(ndim, task="semantic", values=(0, 1), network=network, **options)
    return Segmenter(plan, (make_network(plan, method_of(plan), CPU).eval(),), CPU, {})


@pytest.mark.parametrize(("ndim", "shape"), [(2, (37, 21)), (3, (18, 17, 23)), (2, (3, 19, 20))])
def test_attention_lies_on_the_grid_of_the_image(ndim, shape):
    """Larger than a patch, so that tiles are blended; a stack for a network of planes has it plane by plane."""
    image = Image(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32), Grid.regular(shape))
    found = segmenter(ndim).attention(image)
    assert {name: a.shape for name, a in found.items()} == {"level 0": (1, *shape), "level 1": (1, *shape)}
    assert all(0 < a.min() < a.max() < 1 for a in found.values())


def test_attention_of_one_tile_is_that_of_the_network():
    maker = segmenter(2)
    image = Image(np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32), Grid.regular((16, 16)))
    x = (image.array - image.array.mean()) / image.array.std()
    alone = maker.networks[0].attention(torch.from_numpy(np.asarray(x, np.float32))[None])[0]
    assert np.allclose(maker.attention(image)["level 0"], alone[0].numpy(), atol=1e-4)


def test_networks_without_gates_have_no_attention():
    image = Image(np.zeros((1, 16, 16), np.float32), Grid.regular((16, 16)))
    assert segmenter(2, "unet").attention(image) == {}


def test_an_overlay_takes_the_attention_of_its_slice():
    volume = np.zeros((1, 4, 5, 6), np.float32)
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[:, :, 2] = 1
    overlay = overlay_of("a", volume, labels, None, spacing=(1.0, 1.0, 3.0))
    assert overlay.cut == (2, 2)
    attention = np.random.default_rng(0).random((1, 4, 5, 6)).astype(np.float32)
    (name, plane), = with_attention(overlay, {"level 0": attention}).attention
    assert name == "level 0"
    assert np.array_equal(plane, attention[0, :, :, 2])
    flat = overlay_of("b", volume[:, 0], labels[0], None)
    assert np.array_equal(with_attention(flat, {"l": attention[:, 0]}).attention[0][1], attention[0, 0])


def test_heat_is_brightest_where_attention_is_highest():
    plane = np.zeros((10, 10), np.float32)
    plane[2, 7] = 0.3
    picture = heat(Overlay("a", np.zeros((10, 10)), None, None), plane, width=20).astype(int)
    assert picture.shape == (20, 20, 3)
    assert np.unravel_index(picture.sum(-1).argmax(), (20, 20)) == (4, 14)
    assert heat(Overlay("a", np.zeros((4, 4)), None, None), np.ones((4, 4))).shape[2] == 3  # constant: no division by 0


def test_the_report_shows_attention_beside_the_overlays(tmp_path):
    dataset = write_volumes(tmp_path / "data")
    for network in ("attention_unet", "unet"):
        plan = tiny_plan(3, task="semantic", network=network, patch=(8, 8, 8), steps=1, unit="mm")
        fit(plan, dataset, tmp_path / network, device="cpu")
    shown, plain = ((tmp_path / n / "report.html").read_text("utf-8") for n in ("attention_unet", "unet"))
    assert "<h2>Attention</h2>" in shown
    assert shown.count("level 0: 0.") == shown.count("level 1: 0.") == 2  # as image text and as caption of the one case
    assert "<h2>Attention</h2>" not in plain
    assert "level 0" not in plain
