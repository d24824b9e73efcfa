"""Networks of other libraries behind the heads of ours: any size, any channels, no weight twice, no network access."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from torch import nn

from biosegkit.errors import OptionError, PlanError
from biosegkit.nets import NETS, build
from biosegkit.nets.padding import padded_size, whole
from biosegkit.nets.smp import DECODERS, EncoderDecoder
from biosegkit.plan.networks import NETWORKS, network_decisions
from biosegkit.plan.schema import Architecture, Configuration

SMALL = "tu-test_efficientnet"
ADAPTED = [*DECODERS, "segresnet", "swinunetr"]


def architecture(name, ndim, width=12, **options):
    return Architecture(**{"name": name, "features": (width, 2 * width), "kernels": ((3,) * ndim,) * 2,
                           "strides": ((1,) * ndim, (2,) * ndim), "encoder_blocks": (1, 1), "decoder_blocks": (1,),
                           "encoder": SMALL if name in DECODERS else "", **options})


def network(name, inputs=1, heads=None, **options):
    ndim = options.pop("ndim", NETWORKS[name].ndims[0])
    c = Configuration(name="2d" if ndim == 2 else "3d_fullres", ndim=ndim, spacing=(1.0,) * ndim,
                      median_shape=(16,) * ndim, patch=(16,) * ndim, batch=1, tile_step=(8,) * ndim,
                      architecture=architecture(name, ndim, **options))
    torch.manual_seed(0)
    return build(c, inputs, heads or {"classes": 2})


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def offline(monkeypatch):
    """No host is reached, and asking for one is an error nobody catches."""
    def refused(*_, **__):
        pytest.fail("a network was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)


# --- padding ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 70), min_size=2, max_size=3), st.sampled_from([1, 8, 32]))
def test_padded_sizes_are_the_smallest_that_serve(shape, divisor):
    found = padded_size(tuple(shape), divisor)
    assert all(n % divisor == 0 and n >= m for n, m in zip(found, shape, strict=True))
    assert max(found) >= 2 * divisor
    assert all(n - m < divisor for n, m in zip(found[:-1], shape[:-1], strict=True))


def test_an_image_is_continued_by_its_last_values_and_cut_back():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    seen = []
    y = whole(lambda image: seen.append(image) or image * 2, x, 4)
    assert torch.equal(y, x * 2)
    assert seen[0][0, 0].tolist() == [[0, 1, 2, 2, 2, 2, 2, 2], *[[3, 4, 5, 5, 5, 5, 5, 5]] * 3]


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
@given(shape=st.tuples(st.integers(1, 75), st.integers(1, 75)))
@settings(deadline=None, max_examples=6)
def test_any_size_comes_back_whole_in_2d(name, shape):
    net = CACHE.setdefault(name, network(name, inputs=2, heads={"a": 1, "b": 3}).eval())
    with torch.no_grad():
        found = net(torch.randn(1, 2, *shape))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"a": (1, 1, *shape), "b": (1, 3, *shape)}
    assert all(torch.isfinite(v).all() for v in found.values())


CACHE: dict[str, nn.Module] = {}


@pytest.mark.parametrize(("name", "shape"), [("segresnet", (5, 17, 9)), ("segresnet", (8, 8, 8)),
                                             ("segresnet", (1, 20, 3)), ("swinunetr", (3, 33, 30))])
def test_any_size_comes_back_whole_in_3d(name, shape):
    net = network(name, inputs=2, heads={"a": 1, "b": 3}).eval()
    with torch.no_grad():
        found = net(torch.randn(1, 2, *shape))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"a": (1, 1, *shape), "b": (1, 3, *shape)}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_training_step_reaches_every_weight_even_with_one_tiny_patch(name):
    net = network(name, inputs=3).train()
    shape = (20, 13) if name in DECODERS else (9, 10, 6)
    found = net(torch.randn(1, 3, *shape))
    assert isinstance(found, dict)
    (found["classes"] * torch.randn_like(found["classes"])).sum().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("name", ADAPTED)
def test_no_weight_is_stored_twice(name):
    state = network(name).state_dict()
    pointers = [v.data_ptr() for v in state.values() if v.numel()]
    assert len(pointers) == len(set(pointers))


@pytest.mark.parametrize("name", [n for n in DECODERS if n != "pspnet"])
def test_it_is_the_librarys_network_on_an_image_of_its_stride(name):
    """The same weights give the same logits as the library's own class; DeepLabV3+ and UPerNet differ in a norm."""
    ours = network(name, inputs=3, heads={"a": 2, "b": 1}).eval()
    theirs = smp.create_model(DECODERS[name], SMALL, encoder_weights=None, in_channels=3, classes=3).eval()
    assert count(ours) == count(theirs)
    if name in ("deeplabv3plus", "upernet"):
        return
    theirs.load_state_dict(ours.net.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(torch.cat(list(ours(x).values()), 1), theirs(x))


def test_pspnet_keeps_no_stage_that_it_does_not_use():
    ours = network("pspnet", encoder="resnet18").eval()
    theirs = smp.PSPNet("resnet18", encoder_weights=None, in_channels=1, classes=2).eval()
    unused = count(theirs.encoder.layer3) + count(theirs.encoder.layer4)
    assert count(ours) == count(theirs) - unused
    theirs.load_state_dict(ours.net.state_dict(), strict=False)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x)["classes"], theirs(x))


def test_global_pooling_answers_the_same_in_training_and_prediction():
    """Batch norm over one value per channel would answer zero in training; layer norm does not know the batch."""
    for name in ("deeplabv3plus", "upernet"):
        pooled = [m for m in network(name).modules()
                  if isinstance(m, nn.Sequential) and len(m) and isinstance(m[0], nn.AdaptiveAvgPool2d)
                  and m[0].output_size in (1, (1, 1))]
        norms = [m for branch in pooled for m in branch.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
        assert norms
        assert all(isinstance(m, nn.GroupNorm) for m in norms)


@pytest.mark.parametrize(("name", "theirs"), [
    ("segresnet", lambda: MonaiSegResNet(3, 12, 2, 4, norm=("GROUP", {"num_groups": 4}))),
    ("swinunetr", lambda: MonaiSwinUNETR(2, 4, feature_size=12))])
def test_it_is_monais_network(name, theirs):
    ours, theirs = network(name, inputs=2, heads={"a": 1, "b": 3}).eval(), theirs().eval()
    theirs.load_state_dict(ours.net.state_dict())
    x = torch.randn(1, 2, 32, 32, 64)
    with torch.no_grad():
        assert torch.equal(torch.cat(list(ours(x).values()), 1), theirs(x))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoder", "said"), [
    ("resnet43", "did you mean --encoder resnet"), ("tu-resnet81", "did you mean --encoder tu-resnet"),
    ("tu-hf-hub:someone/model", "a name such as"), ("tu-local-dir:here", "a name such as"), ("a/b", "a name such as"),
    ("timm-efficientnet-b0", "efficientnet-b0"), ("tu-maxvit_tiny_tf_224", "224 × 224 only"),
    ("tu-vit_tiny_patch16_224", "another --encoder"), ("tu-resnet18.no_such_tag", "tag")])
def test_an_encoder_that_cannot_serve_is_refused_with_a_remedy(encoder, said, offline):
    with pytest.raises(PlanError, match=said):
        network("fpn", encoder=encoder)


def test_a_pair_that_does_not_go_together_is_refused():
    with pytest.raises(PlanError, match=r"linknet.*not supported.*another --encoder"):
        network("linknet", encoder="mit_b0")


def test_swin_unetr_asks_for_a_multiple_of_twelve():
    with pytest.raises(PlanError, match=r"16 features.*multiple of 12"):
        network("swinunetr", width=16)


@pytest.mark.parametrize("name", DECODERS)
def test_a_volume_is_refused_with_the_configuration_that_serves(name):
    with pytest.raises(PlanError, match="--config 2d"):
        network(name, ndim=3)


@pytest.mark.parametrize("encoder", ["tu-swin_s3_tiny_224", "tu-test_convnext", "mobileone_s0", SMALL])
def test_encoders_of_several_families_take_any_size(encoder, offline):
    net = network("fpn", inputs=2, encoder=encoder)
    found = net(torch.randn(1, 2, 37, 50))["classes"]
    assert found.shape == (1, 2, 37, 50)
    found.sum().backward()


# --- what is loaded, and when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTED)
def test_building_reaches_no_host(name, offline):
    network(name)


@pytest.mark.parametrize(("name", "package"), [("fpn", "segmentation_models_pytorch"), ("swinunetr", "einops")])
def test_a_missing_package_names_the_extra(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionError, match=r"pip install 'biosegkit\[nets\]'"):
        network(name)
    assert NETWORKS[name].extra == "nets"


def test_libraries_are_loaded_only_when_one_of_their_networks_is_built():
    code = ("import sys, biosegkit.nets\n"
            "names = 'timm', 'segmentation_models_pytorch', 'huggingface_hub', 'einops', 'monai'\n"
            "print([m for m in names if m in sys.modules])")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_lists_every_network_as_it_is():
    page = (Path(__file__).parents[1] / "docs" / "plan.md").read_text("utf-8")
    rows = [line for line in page.partition("## Networks")[2].splitlines() if line.startswith("| `")]
    listed = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in rows}
    for name, row in NETWORKS.items():
        dims, topology, when, extra = listed[name]
        assert dims == ", ".join(f"{n}D" for n in row.ndims)
        assert topology == ("the plan’s" if row.follows_topology else "its own")
        assert (when, extra) == (row.choose_when, f"`{row.extra}`" if row.extra else "")


def test_every_network_has_its_row_and_every_row_its_network():
    assert list(NETS) == list(NETWORKS)
    assert [n for n, row in NETWORKS.items() if row.encoder] == list(DECODERS)
    assert isinstance(network("fpn"), EncoderDecoder)


def test_a_plan_whose_axes_differ_says_that_the_network_cannot_follow():
    flat = architecture("segresnet", 3, strides=((1, 1, 1), (1, 2, 2)))
    said = {d.name: d for d in network_decisions(flat, "unet")}
    assert said["network topology"].reason.startswith("warning")
    even = {d.name: d for d in network_decisions(architecture("segresnet", 3), "unet")}
    assert "warning" not in even["network topology"].reason
    assert "network topology" not in {d.name for d in network_decisions(architecture("segnet", 3), "unet")}
