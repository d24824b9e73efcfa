"""Attention U-Net, U-Net++ and the classic sizes: parameter counts by formula, gates, depths."""

from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import tiny_plan
from test_nets import CASES, count, network

from biosegkit.errors import OptionError
from biosegkit.loop import forward_loss, make_network
from biosegkit.nets.attention_unet import Gate
from biosegkit.nets.blocks import CONV, TRANSPOSED, ConvBlock, conv_parts
from biosegkit.nets.instance_norm import InstanceNorm
from biosegkit.patches import Batch
from biosegkit.plan.memory import feature_counts, residual_blocks, residual_elements
from biosegkit.plan.topology import topology
from biosegkit.segmenter import method_of

CLASSIC = (64, 128, 256, 512, 1024)

# --- parameter counts, derived from the papers' drawings and not from the module tree ---------------------------------


def convolution(inputs, outputs, kernel):
    """Weights and bias."""
    return prod(kernel) * inputs * outputs + outputs


def block(inputs, outputs, kernel):
    """A convolution and its norm's scale and shift."""
    return convolution(inputs, outputs, kernel) + 2 * outputs


def double(inputs, outputs, kernel):
    return block(inputs, outputs, kernel) + block(outputs, outputs, kernel)


def test_the_classic_2d_u_net_has_31_million_parameters():
    """Features 64 to 1024, two 3 × 3 convolutions per stage, one channel in, two classes out: 31 042 434.

    The number usually quoted, 31 030 593, is that of one class and no norms: convolutions with bias, 2 × 2 transposed
    convolutions with bias, pooling without weights. Ours is the same with 65 weights more for the second class and
    11 776 more for scale and shift of the norm behind each of the 18 convolutions; halving by strides instead of
    pooling costs no weight.
    """
    net = network(((1, 1), *((2, 2),) * 4), features=CLASSIC, deep_supervision=False)
    three, two = (3, 3), (2, 2)
    bare = sum(convolution(i, o, three) + convolution(o, o, three) for i, o in pairwise((1, *CLASSIC)))
    bare += sum(convolution(low, high, two) + convolution(2 * high, high, three) + convolution(high, high, three)
                for high, low in pairwise(CLASSIC))
    assert bare + convolution(64, 1, (1, 1)) == 31_030_593
    norms = 2 * (2 * sum(CLASSIC) + 2 * sum(CLASSIC[:-1]))
    assert norms == 11_776
    assert count(net) == bare + convolution(64, 2, (1, 1)) + norms == 31_042_434


def unet_parameters(strides, kernels, widths, heads):
    """A U-Net without heads: encoder, ways up and decoder; one channel in, two convolutions per stage."""
    encoder = sum(double(i, o, k) for (i, o), k in zip(pairwise((1, *widths)), kernels, strict=True))
    up = sum(convolution(low, high, s) for (high, low), s in zip(pairwise(widths), strides[1:], strict=True))
    decoder = sum(double(2 * w, w, k) for w, k in zip(widths[:-1], kernels[:-1], strict=True))
    return encoder + up + decoder + sum(w * heads + heads for w in widths[:-1])


ODD = {"2d": ((3, 3), (3, 3), (3, 3)), "3d": ((3, 3, 3),) * 3, "anisotropic": ((1, 3, 3), (3, 3, 3), (3, 3, 3))}


@pytest.mark.parametrize("case", CASES)
def test_parameters_of_an_attention_u_net(case):
    """A gate of f skip, g gating channels: θ with kernel = stride, no bias, to f/2; φ and ψ with kernel 1 and bias."""
    strides, kernels, widths = CASES[case], ODD[case], (6, 10, 16)
    one = (1,) * len(strides[0])
    gates = sum(prod(s) * f * (f // 2) + convolution(g, f // 2, one) + convolution(f // 2, 1, one)
                for (f, g), s in zip(pairwise(widths), strides[1:], strict=True))
    net = network(strides, name="attention_unet", features=widths, kernels=kernels)
    assert count(net) == unet_parameters(strides, kernels, widths, 2) + gates


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_parameters_of_a_u_net_plus_plus_of_every_depth(case, depth):
    """Node (i, j): two convolutions from j skips of its level and what comes from below, which is brought up to f_i.

    Depth 0 stands for the whole network, with a head at every depth.
    """
    strides, kernels, widths = CASES[case], ODD[case], (6, 10, 16)
    net = network(strides, name="unetplusplus", features=widths, kernels=kernels)
    last = depth or 2
    wanted = sum(double(i, o, k) for (i, o), k in zip(pairwise((1, *widths[: last + 1])), kernels, strict=False))
    for i in range(last):
        for j in range(1, last + 1 - i):
            wanted += convolution(widths[i + 1], widths[i], strides[i + 1])
            wanted += double((j + 1) * widths[i], widths[i], kernels[i])
    wanted += (1 if depth else last) * (widths[0] * 2 + 2)
    assert count(net.pruned(depth) if depth else net) == wanted


@pytest.mark.parametrize(("ndim", "patch", "classes"), [(3, (32, 48, 32), 3), (2, (64, 96), 2), (3, (8, 64, 64), 2)])
def test_the_residual_encoder_has_the_outputs_that_its_memory_estimate_counts(ndim, patch, classes):
    """Stem f0·v0; 2·f·v per block and f·v more where it projects; (1 + 1)·f·v per decoder stage; classes·v0.

    Counted on the real network, by hooks on its convolutions; the pooled skip is projected whenever features change,
    but not where they stay (320 → 320 with a stride), which the rule counts and the network does not compute.
    """
    net = topology((4.0,) + (1.0,) * (ndim - 1) if len(set(patch)) == 2 and patch[0] < 9 else (1.0,) * ndim, patch)
    stages = len(net.strides)
    features = feature_counts(stages, ndim)
    built = network(net.strides, name="resenc_unet", features=features, kernels=net.kernels,
                    encoder_blocks=residual_blocks(stages), decoder_blocks=(1,) * (stages - 1),
                    heads={"classes": classes}, deep_supervision=False).eval()
    seen = []
    for module in built.modules():
        if isinstance(module, tuple(CONV.values()) + tuple(TRANSPOSED.values())):
            module.register_forward_hook(lambda _, __, y: seen.append(y[0].numel()))
    with torch.inference_mode():
        built(torch.zeros(1, 1, *patch))
    size, uncounted = list(patch), 0
    for stride, (before, f) in zip(net.strides, pairwise((features[0], *features)), strict=True):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        uncounted += f * prod(size) if before == f and max(stride) > 1 else 0
    assert sum(seen) + uncounted == residual_elements(patch, net.strides, features, classes)


@pytest.mark.parametrize(("preset", "patch", "batch"), [
    ("resenc_m", (128, 128, 128), 2), ("resenc_l", (160, 192, 160), 3), ("resenc_l", (192, 192, 192), 2)])
def test_the_published_patches_fill_the_published_memory_references(preset, patch, batch):
    """nnU-Net's rules: a patch whose estimate stays below the reference, and batch = 2 · reference / estimate."""
    net = topology((1.0, 1.0, 1.0), patch)
    estimate = residual_elements(patch, net.strides, feature_counts(len(net.strides), 3), 4)
    reference = {"resenc_m": 680e6, "resenc_l": 2.1e9}[preset]
    assert estimate <= reference
    assert round(2 * reference / estimate) == batch


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_attention_is_that_of_the_pass_and_changes_nothing(case):
    strides = CASES[case]
    net = network(strides, name="attention_unet").eval()
    shape = (9, 15, 13)[-len(strides[0]):]
    x = torch.randn(2, 1, *shape)
    with torch.no_grad():
        before = net(x)["classes"]
        alphas = net.attention(x)
        assert torch.equal(net(x)["classes"], before)
    half = tuple(-(-n // s) for n, s in zip(shape, strides[1], strict=True))
    assert {k: tuple(a.shape) for k, a in alphas.items()} == {0: (2, 1, *shape), 1: (2, 1, *half)}
    assert all(float(a.min()) > 0 and float(a.max()) < 1 and not a.requires_grad for a in alphas.values())


def test_an_open_gate_makes_a_u_net_of_it_and_a_shut_one_cuts_the_skip():
    gated = network(CASES["2d"], name="attention_unet").eval()
    plain = network(CASES["2d"]).eval()
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gates")})
    x = torch.randn(1, 1, 16, 12)
    for bias, same in ((50.0, True), (-50.0, False)):
        for gate in gated.gates:
            torch.nn.init.constant_(gate.psi.bias, bias)
        with torch.no_grad():
            assert torch.allclose(gated(x)["classes"], plain(x)["classes"], atol=1e-5) is same
    for stage in plain.decoder:  # a shut gate is a decoder that has no weights for the skip
        stage[0].conv.weight.data[:, stage[0].conv.weight.shape[0]:] = 0
    with torch.no_grad():
        assert torch.allclose(gated(x)["classes"], plain(x)["classes"], atol=1e-5)


def test_a_gate_is_its_equation():
    """α = σ(ψ·relu(θ·x + φ·g)) with numbers: two channels, cells of 1 × 2, one hidden channel."""
    gate = Gate(2, 2, 1, (1, 2))
    for layer, value in ((gate.theta, 0.5), (gate.phi, 2.0), (gate.psi, 1.0)):
        torch.nn.init.constant_(layer.weight, value)
    torch.nn.init.constant_(gate.phi.bias, -3.0)
    torch.nn.init.constant_(gate.psi.bias, 0.25)
    x = torch.tensor([[[[1.0, 2, 3, 4]], [[0.0, 1, 0, 1]]]])
    g = torch.tensor([[[[1.0, -1.0]]]])
    # cells: 0.5·(1+2+0+1) + 2·1 - 3 = 1, and 0.5·(3+4+0+1) - 2 - 3 = -1, cut off at 0; between them linearly
    left, right = (torch.sigmoid(torch.tensor(v)) for v in (1.25, 0.25))
    expected = torch.stack([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right])
    assert torch.allclose(gate(x, g).flatten(), expected)


def test_gates_begin_almost_open():
    alphas = network(CASES["3d"], name="attention_unet").eval().attention(torch.randn(1, 1, 16, 16, 16))
    assert all(float(a.median()) > 0.6 for a in alphas.values())


# --- instance norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("samples", [1, 3])
def test_instance_norm_and_its_gradients_are_those_of_torch(layout, samples):
    shape = (samples, 5, 4, 6, 3) if layout is not torch.channels_last else (samples, 5, 7, 6)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    ours = InstanceNorm(5).double()
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    aim = torch.randn(shape, dtype=torch.float64)
    y, wanted = ours(x), torch.nn.functional.instance_norm(x, weight=ours.weight, bias=ours.bias)
    assert torch.allclose(y, wanted, atol=1e-12)
    inputs = (x, ours.weight, ours.bias)
    for a, b in zip(torch.autograd.grad((y * aim).sum(), inputs), torch.autograd.grad((wanted * aim).sum(), inputs),
                    strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d])
def test_gradients_of_instance_norm_in_bfloat16_are_those_of_float64_to_its_digits(layout):
    """Values far from zero: sums of products that cancel must not be rounded to eight bits."""
    shape = (2, 5, 8, 9, 10) if layout is torch.channels_last_3d else (2, 5, 20, 30)
    x = (torch.randn(shape) + 4).to(torch.bfloat16).contiguous(memory_format=layout).requires_grad_()
    exact, ours = x.detach().double().requires_grad_(), InstanceNorm(5)
    torch.nn.init.normal_(ours.weight)
    aim = torch.randn(shape).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    assert y.dtype == torch.bfloat16
    wanted = torch.nn.functional.instance_norm(exact, weight=ours.weight.double(), bias=ours.bias.double())
    inputs = (x, ours.weight, ours.bias)
    found = torch.autograd.grad((y.double() * aim).sum(), inputs)
    truth = torch.autograd.grad((wanted * aim).sum(), (exact, ours.weight, ours.bias))
    for a, b in zip(found, truth, strict=True):
        assert (a.double() - b).norm() < 0.02 * b.norm()


# --- depths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_pruned_network_is_the_head_of_its_depth_to_the_bit(case):
    strides = CASES[case]
    net = network(strides, name="unetplusplus")
    x = torch.randn(1, 1, *(9, 15, 13)[-len(strides[0]):])
    with torch.no_grad():
        every = net.train()(x)  # no statistics are kept, so training and evaluation compute the same
        net.eval()
        assert torch.equal(net(x)["classes"], every[0]["classes"])
        for depth, whole in zip((2, 1), every, strict=True):
            pruned = net.pruned(depth)
            assert not pruned.training
            assert torch.equal(pruned(x)["classes"], whole["classes"])
        mean = (every[0]["classes"] + every[1]["classes"]) / 2
        assert torch.allclose(net.averaged()(x)["classes"], mean, atol=1e-6)


def test_a_pruned_network_shares_its_weights_and_has_no_others():
    net = network(CASES["2d"], name="unetplusplus")
    own = net.state_dict()
    pruned = net.pruned(1).state_dict()
    assert 0 < len(pruned) < len(own)
    assert all(v.data_ptr() == own[k].data_ptr() for k, v in pruned.items())
    assert not [k for k in pruned if k.startswith(("encoder.2", "nodes.1_1", "nodes.0_2", "up.0_2", "heads.2"))]
    assert net.depths == (1, 2)


def test_every_depth_counts_equally_in_the_loss():
    plan = tiny_plan(task="semantic", values=(0, 1), network="unetplusplus")
    method = method_of(plan)
    net = make_network(plan, method, torch.device("cpu")).train()
    image = torch.randn(2, 1, 15, 16)
    targets, weights = {"classes": torch.randint(0, 2, (2, 15, 16))}, {"classes": torch.ones(2, 15, 16)}
    found = forward_loss(net, method, Batch(image, targets, weights, ("a", "b")), plan, torch.device("cpu"))
    outputs = net(image)
    assert len(outputs) == 2
    for name, value in found.items():
        terms = [method.loss(output, targets, weights)[name].item() for output in outputs]
        assert value.item() == pytest.approx(sum(terms) / 2, rel=1e-5)


@pytest.mark.parametrize(("options", "depth", "told"), [({}, 3, "one of 1, 2"), ({}, 0, "one of 1, 2"),
                                                        ({"deep_supervision": False}, 1, "one of 2")])
def test_a_depth_without_a_head_is_refused(options, depth, told):
    with pytest.raises(OptionError, match=f"depth {depth}.*{told}.*--depth"):
        network(CASES["2d"], name="unetplusplus", **options).pruned(depth)


@given(st.sampled_from([2, 3]), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_convolution_of_parts_is_that_of_their_concatenation(ndim, channels, flat):
    kernel = (1, *(3,) * (ndim - 1)) if flat else (3,) * ndim
    layer = ConvBlock(ndim, sum(channels), 5, kernel)
    torch.nn.init.normal_(layer.conv.bias)
    parts = tuple(torch.randn(2, c, *(4, 5, 6)[-ndim:], dtype=torch.float64, requires_grad=True) for c in channels)
    layer.double()
    a, b = conv_parts(layer.conv, parts), layer.conv(torch.cat(parts, 1))
    assert torch.allclose(a, b, atol=1e-12)
    aim = torch.randn_like(a)
    for x, y in zip(torch.autograd.grad((a * aim).sum(), [*parts, layer.conv.weight, layer.conv.bias]),
                    torch.autograd.grad((b * aim).sum(), [*parts, layer.conv.weight, layer.conv.bias]), strict=True):
        assert torch.allclose(x, y, atol=1e-12)
