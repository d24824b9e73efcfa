"""Networks: sizes, parameter counts worked by hand, no weight twice, gradients everywhere."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.errors import PlanError
from biosegkit.nets import build
from biosegkit.nets.blocks import norm
from biosegkit.plan.networks import NETWORKS
from biosegkit.plan.schema import Architecture, Configuration

#: Networks that take the plan's kernels and strides; the others are tested where they are made.
PLANNED = [name for name, row in NETWORKS.items() if row.follows_topology]
SUPERVISED = [name for name in PLANNED if NETWORKS[name].deep_supervision]
CASES = {
    "2d": ((1, 1), (2, 2), (2, 2)),
    "3d": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "anisotropic": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
}


def architecture(strides, features=(4, 6, 8), **options):
    n = len(strides)
    kernels = tuple(tuple(1 if s == 1 and i and len(set(stride)) > 1 else 3 for s in stride)
                    for i, stride in enumerate(strides))
    return Architecture(**{"features": features[:n], "kernels": kernels, "strides": strides,
                           "encoder_blocks": (2,) * n, "decoder_blocks": (2,) * (n - 1), **options})


def network(strides, inputs=1, heads=None, **options):
    plan = architecture(strides, **options)
    ndim = len(strides[0])
    c = Configuration(name="2d" if ndim == 2 else "3d_fullres", ndim=ndim, spacing=(1.0,) * ndim,
                      median_shape=(16,) * ndim, patch=(16,) * ndim, batch=1, tile_step=(8,) * ndim, architecture=plan)
    torch.manual_seed(0)
    return build(c, inputs, heads or {"classes": 2})


def count(module):
    return sum(p.numel() for p in module.parameters())


def levels_of(outputs):
    """Outputs of training, one dict per level whether there are several or one."""
    return outputs if isinstance(outputs, list) else [outputs]


# --- parameter counts ------------------------------------------------------------------------------------------------


def test_parameters_of_a_small_network_by_hand():
    net = network(((1, 1), (2, 2)), features=(4, 8), heads={"classes": 3}, encoder_blocks=(1, 1), decoder_blocks=(1,))
    first = 9 * 1 * 4 + 4 + 2 * 4  # 3 × 3 convolution from 1 to 4 with bias, and scale and shift of the norm
    second = 9 * 4 * 8 + 8 + 2 * 8
    up = 4 * 8 * 4 + 4  # transposed 2 × 2 from 8 to 4
    decoder = 9 * (4 + 4) * 4 + 4 + 2 * 4
    head = 4 * 3 + 3
    assert count(net) == first + second + up + decoder + head == 48 + 312 + 132 + 300 + 15


def test_parameters_of_nnunets_hippocampus_network():
    """nnU-Net's plan of the Decathlon's hippocampus: 32 to 256 features, two blocks, three supervised outputs of 3."""
    widths = (32, 64, 128, 256)
    net = network(((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), features=widths, heads={"classes": 3})

    def block(inputs, outputs):
        return 27 * inputs * outputs + 3 * outputs

    encoder = sum(block(i, o) + block(o, o) for i, o in zip((1, *widths), widths, strict=False))
    up = sum(8 * lower * upper + upper for upper, lower in pairwise(widths))
    decoder = sum(block(2 * w, w) + block(w, w) for w in widths[:-1])
    heads = sum(w * 3 + 3 for w in widths[:-1])
    assert count(net) == encoder + up + decoder + heads
    assert count(net) == 5_603_177


def test_parameters_of_a_residual_block_by_hand():
    plain = network(((1, 1), (2, 2)), features=(4, 8), encoder_blocks=(1, 1), decoder_blocks=(1,))
    residual = network(((1, 1), (2, 2)), features=(4, 8), encoder_blocks=(1, 1), decoder_blocks=(1,),
                       name="resenc_unet")
    stem = 9 * 4 + 4 + 8
    stage_1 = 2 * (9 * 4 * 4 + 4 + 8)  # 4 → 4, identity skip
    stage_2 = (9 * 4 * 8 + 8 + 16) + (9 * 8 * 8 + 8 + 16) + (4 * 8 + 16)  # the skip is a 1 × 1 convolution with norm
    assert count(residual) == stem + stage_1 + stage_2 + count(plain) - (48 + 312)


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("case", CASES)
def test_no_weight_is_stored_twice(name, case):
    net = network(CASES[case], name=name)
    pointers = [v.data_ptr() for v in net.state_dict().values() if v.numel()]
    assert len(pointers) == len(set(pointers))
    assert sum(v.numel() for v in net.state_dict().values()) == count(net)


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNED)
@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_any_size_comes_back_whole(name, data):
    strides = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    ndim = len(strides[0])
    shape = tuple(data.draw(st.integers(3, 13)) for _ in range(ndim))
    net = network(strides, inputs=2, heads={"a": 2, "b": 3}, name=name, norm="group").eval()
    with torch.no_grad():
        found = net(torch.randn(1, 2, *shape))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"a": (1, 2, *shape), "b": (1, 3, *shape)}


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize("case", CASES)
def test_deep_supervision_gives_every_decoder_level_finest_first(name, case):
    """U-Net++ is supervised at every depth and always at full resolution (Zhou et al. 2018)."""
    strides = CASES[case]
    net = network(strides, name=name)
    shape = (9, 15, 14)[-len(strides[0]):]
    levels = net.train()(torch.randn(2, 1, *shape))
    half = tuple(-(-n // s) for n, s in zip(shape, strides[1], strict=True))
    assert [tuple(v["classes"].shape) for v in levels] == [
        (2, 2, *shape), (2, 2, *(shape if name == "unetplusplus" else half))]
    assert isinstance(net.eval()(torch.randn(1, 1, *shape)), dict)
    alone = network(strides, name=name, deep_supervision=False).train()
    assert isinstance(alone(torch.randn(2, 1, *shape)), dict)


@pytest.mark.parametrize("name", PLANNED)
def test_every_weight_has_a_gradient(name):
    net = network(CASES["anisotropic"], name=name).train()
    levels = levels_of(net(torch.randn(2, 1, 8, 16, 16)))
    sum((v["classes"] * torch.randn_like(v["classes"])).sum() for v in levels).backward()
    without = [k for k, p in net.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", PLANNED)
def test_V12_a_single_stage_is_a_network_too(name):
    net = network(((1, 1),), name=name)
    assert net.eval()(torch.zeros(1, 1, 7, 3))["classes"].shape == (1, 2, 7, 3)
    assert levels_of(net.train()(torch.zeros(1, 1, 7, 3)))[0]["classes"].shape == (1, 2, 7, 3)


def test_a_convolution_of_a_stage_sees_what_its_kernel_says():
    """A flat first kernel (1, 3, 3) does not mix slices."""
    net = network(((1, 1, 1), (1, 2, 2)), kernels=((1, 3, 3), (1, 3, 3)), features=(4, 6), norm="batch").eval()
    x = torch.randn(1, 1, 3, 8, 8)
    y = x.clone()
    y[:, :, 2] += 1
    with torch.no_grad():
        a, b = net(x)["classes"], net(y)["classes"]
    assert torch.equal(a[:, :, :2], b[:, :, :2])
    assert not torch.equal(a[:, :, 2], b[:, :, 2])


@pytest.mark.parametrize("name", PLANNED)
def test_a_residual_block_starts_as_its_skip(name):
    """The last norm of a residual block starts at zero, so at first only the skip speaks; no other network has one."""
    net = network(((1, 1), (2, 2)), name=name)
    zeros = [k for k, v in net.named_parameters() if k.endswith("norm.weight") and not v.any()]
    assert bool(zeros) is (name == "resenc_unet")


@pytest.mark.parametrize(("features", "groups"), [(8, 1), (16, 2), (12, 2), (6, 1), (7, 1), (20, 4), (11, 11)])
def test_groups_divide_any_width(features, groups):
    assert norm("group", 2, features).num_groups == groups


def test_the_seed_alone_decides_the_weights():
    a, b = (network(CASES["3d"]).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_unknown_network_is_refused():
    with pytest.raises(PlanError, match=r"'vnet'.*unet"):
        network(CASES["2d"], name="vnet")
