"""Heads with hidden features: their grid, their weights, and that a loss takes them as it gets them."""

import numpy as np
import pytest
import torch
from test_nets import CASES, count, levels_of, network

from biosegkit.methods.star import Star
from biosegkit.nets import NETS, Output
from biosegkit.plan.networks import NETWORKS

HEADS = {"foreground": 1, "distances": Output(5, hidden=7, coarse=True)}
PLAIN = {"foreground": 1}
FOLLOWING = [name for name in NETS if NETWORKS[name].follows_topology]
#: Networks without levels of their own on the way up give all maps at full resolution.
FULL = {"fcn"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FOLLOWING)
def test_maps_are_on_the_grid_of_the_second_stage(name, case):
    strides = CASES[case]
    net, size = network(strides, name=name, heads=HEADS), (17, 18, 19)[-len(strides[0]):]
    x = torch.randn(2, 1, *size)
    wanted = size if name in FULL else tuple(-(-n // s) for n, s in zip(size, strides[1], strict=True))
    found = net.eval()(x)
    assert tuple(found["foreground"].shape[2:]) == size
    assert tuple(found["distances"].shape) == (2, 5, *wanted)
    with_it = ["distances" in level for level in levels_of(net.train()(x))]
    assert with_it[0]
    assert sum(with_it) == (len(with_it) if name == "unetplusplus" else 1)


@pytest.mark.parametrize("case", CASES)
def test_weights_of_the_branch_by_hand(case):
    """A convolution from the six features of the second level to seven, and seven to five: all that is added."""
    strides = CASES[case]
    taps = np.prod([1 if s == 1 and len(set(strides[1])) > 1 else 3 for s in strides[1]])
    more, without = (count(network(strides, heads=heads)) for heads in (HEADS, PLAIN))
    assert more - without == 6 * 7 * taps + 7 + 7 * 5 + 5


@pytest.mark.parametrize("heads", [{"a": 2, "b": 3}, {"a": Output(2), "b": 3}])
def test_a_head_that_asks_for_nothing_is_as_before(heads):
    one, other = network(CASES["2d"], heads=heads), network(CASES["2d"], heads={"a": 2, "b": 3})
    assert {k: tuple(v.shape) for k, v in one.state_dict().items()} == {
        k: tuple(v.shape) for k, v in other.state_dict().items()}
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(one.eval()(x)["b"], other.eval()(x)["b"])


@pytest.mark.parametrize("depth", [1, 2])
def test_a_pruned_network_has_the_branch_of_its_depth(depth):
    net = network(CASES["2d"], name="unetplusplus", heads=HEADS)
    x = torch.randn(1, 1, 20, 21)
    levels = net.train()(x)
    pruned = net.pruned(depth)(x)
    assert all(torch.equal(pruned[name], levels[2 - depth][name]) for name in HEADS)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
def test_star_compares_coarse_maps_with_every_nth_voxel(strides):
    """The loss of maps on a coarse grid is that of the targets taken there; a level without them has the foreground."""
    labels = np.zeros((13, 12), np.int32)
    labels[2:8, 1:7], labels[5:12, 8:12] = 1, 2
    star = Star(n_rays=8)
    targets, weights = ({k: torch.from_numpy(v)[None] for k, v in part.items()} for part in star.encode(labels, (1, 1)))
    every = tuple(slice(None, None, s) for s in strides)
    size = labels[every].shape
    torch.manual_seed(0)
    outputs = {"foreground": torch.randn(1, 1, 13, 12), "probability": torch.randn(1, 1, *size),
               "distances": torch.randn(1, 8, *size)}
    found = star.loss(outputs, targets, weights)
    taken = star.loss(outputs | {"foreground": outputs["foreground"][..., *every]},
                      {k: v[..., *every] for k, v in targets.items()}, {k: v[..., *every] for k, v in weights.items()})
    assert all(torch.allclose(found[name], taken[name]) for name in ("probability", "distances"))
    alone = star.loss({"foreground": outputs["foreground"]}, targets, weights)
    assert set(found) - set(alone) == {"probability", "distances"}
    assert all(torch.equal(alone[name], found[name]) for name in alone)


def test_star_enlarges_coarse_maps_linearly():
    star = Star(n_rays=4, scale=1.0)
    logarithm = torch.log1p(8 * torch.tensor([1.0, 3.0]))  # of distances 1 and 3 in eighths of the scale
    coarse = torch.log(torch.expm1(logarithm)).expand(1, 4, 3, 2).contiguous()
    maps = star.activate({"foreground": torch.zeros(1, 1, 5, 4), "probability": coarse[:, :1], "distances": coarse})
    assert maps["distances"].shape == (1, 4, 5, 4)
    assert torch.allclose(maps["distances"][0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]).expand(5, 4), atol=1e-5)
    assert maps["probability"].shape == maps["foreground"].shape
