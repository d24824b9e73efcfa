"""FCN and SegNet: sizes, parameter counts worked by hand, scores on the right grid, values back at their places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biosegkit.nets.blocks import enlarged
from biosegkit.nets.classic import FCN, SegNet
from biosegkit.plan.schema import Architecture

KINDS = {
    "2d": ((1, 1), (2, 2), (2, 2), (2, 2)),
    "3d": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "anisotropic": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
}


def architecture(strides, features=(4, 6, 8, 10), blocks=2, **options):
    n, ndim = len(strides), len(strides[0])
    return Architecture(**{"features": features[:n], "kernels": ((3,) * ndim,) * n, "strides": strides,
                           "encoder_blocks": (blocks,) * n, "decoder_blocks": (blocks,) * (n - 1), **options})


def network(kind, strides, inputs=1, heads=None, **options):
    torch.manual_seed(0)
    return kind(len(strides[0]), inputs, architecture(strides, **options), heads or {"classes": 2})


def count(module):
    return sum(p.numel() for p in module.parameters())


def block(inputs, outputs, taps=9):
    """A convolution with bias, and scale and shift of its norm."""
    return taps * inputs * outputs + outputs + 2 * outputs


@pytest.mark.parametrize("kind", [FCN, SegNet])
@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_any_size_comes_back_whole(kind, data):
    strides = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    shape = tuple(data.draw(st.integers(1, 19)) for _ in strides[0])
    net = network(kind, strides, inputs=2, heads={"a": 2, "b": 3}, norm="group").eval()
    x = torch.randn(1, 2, *shape)
    with torch.no_grad():
        found = net(x)
        turned = net(x.to(memory_format=torch.channels_last if len(shape) == 2 else torch.channels_last_3d))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"a": (1, 2, *shape), "b": (1, 3, *shape)}
    assert all(torch.allclose(found[k], turned[k], atol=1e-5) for k in found)


@pytest.mark.parametrize("kind", [FCN, SegNet])
@pytest.mark.parametrize("case", KINDS)
def test_every_weight_has_a_gradient_and_is_stored_once(kind, case):
    net = network(kind, KINDS[case]).train()
    found = net(torch.randn(2, 1, *(9, 15, 14)[-len(KINDS[case][0]):]))["classes"]
    (found * torch.randn_like(found)).sum().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None] == []
    assert sum(v.numel() for v in net.state_dict().values()) == count(net)


@pytest.mark.parametrize("kind", [FCN, SegNet])
def test_a_single_stage_is_a_network_too(kind):
    assert network(kind, ((1, 1),)).eval()(torch.zeros(1, 1, 7, 3))["classes"].shape == (1, 2, 7, 3)


def test_parameters_of_fcn_by_hand():
    net = network(FCN, KINDS["2d"], blocks=1, heads={"classes": 3})
    encoder = block(1, 4) + block(4, 6) + block(6, 8) + block(8, 10)
    scores = 3 * (6 + 8 + 10) + 3 * 3  # of the three coarsest stages
    assert count(net) == encoder + scores


def test_parameters_of_segnet_by_hand():
    net = network(SegNet, ((1, 1), (2, 2)), heads={"classes": 3})
    encoder = block(1, 4) + block(4, 4) + block(4, 6) + block(6, 6)
    decoder = block(6, 4) + block(4, 4) + block(4, 4)  # the coarsest stage brings 6 channels down to 4
    assert count(net) == encoder + decoder + 4 * 3 + 3


@given(st.integers(1, 6), st.integers(1, 4), st.integers(-3, 3), st.integers(-3, 3))
@settings(deadline=None)
def test_a_slope_is_enlarged_to_the_same_slope(count, stride, slope, offset):
    """Voxel i stands at i × stride, so a linear function is continued exactly between the first and the last."""
    x = offset + slope * stride * torch.arange(float(count))
    size = count * stride
    y = enlarged(x.reshape(1, 1, 1, -1), (1, stride), torch.zeros(1, 1, 1, size))[0, 0, 0]
    last = (count - 1) * stride + 1
    torch.testing.assert_close(y[:last], offset + slope * torch.arange(float(last)))
    torch.testing.assert_close(y[last:], x[-1:].expand(size - last))


def test_fcn_sums_the_scores_of_three_resolutions():
    """With encoders that only pick every second value and scores that pass it on, the sum is worked by hand."""
    net = network(FCN, ((1, 1), (1, 2), (1, 2)), heads={"classes": 1})

    class Every(nn.Module):
        def __init__(self, step):
            super().__init__()
            self.step = step

        def forward(self, x):
            return x[..., ::self.step]

    net.encoder = nn.ModuleList([Every(1), Every(2), Every(2)])
    net.scores = nn.ModuleList([nn.Identity()] * 3)
    x = torch.tensor([0.0, 1, 4, 9, 16]).reshape(1, 1, 1, 5)
    half, quarter = [0, 4, 16], [0, 16]
    middle = [half[0] + quarter[0], half[1] + 8, half[2] + quarter[1]]
    expected = [0 + middle[0], 1 + (middle[0] + middle[1]) / 2, 4 + middle[1], 9 + (middle[1] + middle[2]) / 2,
                16 + middle[2]]
    assert net(x)["classes"].flatten().tolist() == expected


def test_segnet_puts_maxima_back_where_they_were():
    net = network(SegNet, ((1, 1), (2, 2)))
    net.encoder = nn.ModuleList([nn.Identity()] * 2)
    net.decoder = nn.ModuleList([nn.Identity()] * 2)

    class Named(nn.Module):
        def forward(self, x):
            return {"classes": x}

    net.head = Named()
    x = torch.tensor([[1.0, 9, 2], [3, 4, 7], [8, 5, 6]]).reshape(1, 1, 3, 3)
    assert net(x)["classes"][0, 0].tolist() == [[0, 9, 0], [0, 0, 7], [8, 0, 6]]


def test_flat_kernels_and_windows_do_not_mix_slices():
    flat = ((1, 1, 1), (1, 2, 2))
    for kind in (FCN, SegNet):
        net = network(kind, flat, kernels=((1, 3, 3),) * 2, norm="batch").eval()
        x = torch.randn(1, 1, 3, 8, 8)
        y = x.clone()
        y[:, :, 2] += 1
        with torch.no_grad():
            a, b = net(x)["classes"], net(y)["classes"]
        assert torch.equal(a[:, :, :2], b[:, :, :2])
        assert not torch.equal(a[:, :, 2], b[:, :, 2])
