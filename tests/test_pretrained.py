"""Weights an encoder begins with: a file, or a download by name, here from a hub of ours; nothing else asks a host."""

import functools
import hashlib
import http.server
import socket
import threading

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save, save_file
from small_sets import tiny_plan, write_instances

from biosegkit import pretrained
from biosegkit.bundle import load, write_bundle
from biosegkit.errors import FileError, PlanError
from biosegkit.loop import make_network
from biosegkit.plan.networks import fitted, network_decisions
from biosegkit.plan.schema import Plan
from biosegkit.pretrained import begin, digest_of
from biosegkit.segmenter import method_of
from biosegkit.train import fit

CPU = torch.device("cpu")
SMALL = "tu-test_efficientnet"


def encoder_plan(weights="", encoder=SMALL, digest="", channels=3, network="fpn", **options):
    plan = tiny_plan(2, network=network, channels=channels, **options)
    a = plan.configuration.architecture.model_copy(update={
        "encoder": encoder, "encoder_weights": str(weights), "encoder_digest": digest})
    return plan.model_copy(update={"configuration": plan.configuration.model_copy(update={"architecture": a})})


def pinned(path, **options):
    return encoder_plan(path, digest=hashlib.sha256(path.read_bytes()).hexdigest(), **options)


def timm_state(model="test_efficientnet"):
    torch.manual_seed(5)
    return timm.create_model(model, pretrained=False).state_dict()


@pytest.fixture
def weights(tmp_path):
    """A whole classifier of timm, as a user would have fetched it."""
    save_file(timm_state(), tmp_path / "classifier.safetensors")
    return tmp_path / "classifier.safetensors"


@pytest.fixture
def offline(monkeypatch):
    """Every connection fails, as without a network."""
    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


# --- a local file ----------------------------------------------------------------------------------------------------


def test_an_encoder_begins_as_the_file_says_and_the_rest_as_the_seed_says(weights, offline):
    plan = pinned(weights)
    random, begun, file = make_network(plan, method_of(plan), CPU).state_dict(), begin(plan), timm_state()
    assert list(begun) == list(random)
    inner = {k.removeprefix("net.encoder.model."): v for k, v in begun.items() if k.startswith("net.encoder.")}
    assert set(inner) <= set(file)
    assert all(torch.equal(v, file[k]) for k, v in inner.items())
    others = [k for k in begun if not k.startswith("net.encoder.")]
    assert all(torch.equal(begun[k], random[k]) for k in others)
    assert not torch.equal(begun["net.encoder.model.conv_stem.weight"], random["net.encoder.model.conv_stem.weight"])


@pytest.mark.parametrize(("encoder", "channels"), [(SMALL, 1), (SMALL, 5), ("resnet18", 1), ("resnet18", 2)])
def test_filters_of_three_channels_serve_any_number(channels, encoder, tmp_path):
    """For one channel they are summed: a grey image answers as its three equal channels did."""
    state = timm_state() if encoder == SMALL else smp.encoders.get_encoder(encoder, weights=None).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    found = begin(pinned(tmp_path / "w.safetensors", encoder=encoder, channels=channels))
    name = "net.encoder.model.conv_stem.weight" if encoder == SMALL else "net.encoder.conv1.weight"
    first = state["conv_stem.weight" if encoder == SMALL else "conv1.weight"]
    assert found[name].shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(found[name], first.sum(1, keepdim=True))


def test_pspnet_takes_only_the_stages_it_has(tmp_path):
    save_file(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), tmp_path / "w.safetensors")
    found = begin(pinned(tmp_path / "w.safetensors", encoder="resnet18", network="pspnet"))
    assert not [k for k in found if "layer4" in k]


def test_weights_of_another_encoder_are_refused(weights, offline, tmp_path):
    with pytest.raises(PlanError, match=r"do not fit encoder 'resnet18'.*--encoder-weights"):
        begin(pinned(weights, encoder="resnet18"))
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(PlanError, match="do not fit"):
        begin(pinned(tmp_path / "empty.safetensors"))


def test_only_safetensors_are_read(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x04.")
    for name, said in (("w.pth", "can run code"), ("none.safetensors", "nothing there"), ("w.onnx", "nothing there")):
        with pytest.raises(FileError, match=said):
            digest_of("resnet18", str(tmp_path / name))


def test_a_file_that_has_changed_since_the_plan_is_refused(weights):
    plan = pinned(weights)
    changed = timm_state()
    changed["conv_stem.weight"] += 1
    save_file(changed, weights)
    with pytest.raises(FileError, match="SHA-256"):
        begin(plan)


# --- what the plan says ----------------------------------------------------------------------------------------------


def test_the_place_of_a_file_is_not_part_of_a_model(weights, tmp_path):
    there = tmp_path / "elsewhere.safetensors"
    there.write_bytes(weights.read_bytes())
    one, other = pinned(weights), pinned(there)
    assert one.hash == other.hash == one.shared().hash
    assert one.hash != encoder_plan(weights, digest="0" * 64).hash
    assert one.hash != encoder_plan().hash
    assert str(tmp_path) not in one.shared().model_dump_json()
    with pytest.raises(PlanError, match=r"without the file.*remove encoder_digest"):
        begin(one.shared())
    assert begin(encoder_plan()) is None


def test_the_plan_reads_back_and_says_what_it_begins_with(weights, tmp_path):
    plan = pinned(weights)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    said = {d.name: d for d in network_decisions(plan.configuration.architecture, "unet")}
    assert plan.configuration.architecture.encoder_digest[:12] in said["encoder"].reason
    plain = fitted(plan.configuration.architecture)
    assert (plain.encoder, plain.encoder_weights) == ("resnet34", "")
    assert "nothing is downloaded" in {d.name: d for d in network_decisions(plain, "unet")}["encoder"].reason


def test_an_encoder_for_a_network_without_one_is_refused():
    unet = tiny_plan(2).configuration.architecture
    with pytest.raises(PlanError, match=r"'unet', which has its own.*fpn, pspnet"):
        fitted(unet, "resnet34")


def test_a_bundle_holds_its_weights_and_names_no_place(weights, offline, tmp_path):
    plan = pinned(weights)
    state = begin(plan)
    write_bundle(tmp_path / "bundle", plan, {"0": state})
    assert weights.name not in (tmp_path / "bundle/plan.json").read_text()
    weights.unlink()
    model = load(tmp_path / "bundle", "cpu")
    found = model.segmenter.networks[0].state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert model.plan.hash == plan.hash


def test_weights_are_read_at_the_start_of_training_and_never_again(weights, offline, tmp_path, monkeypatch):
    data = write_instances(tmp_path / "data", cases=3, shape=(32, 32))
    plan = pinned(weights, channels=1, steps=2)
    taken = []
    monkeypatch.setattr(pretrained, "_located", lambda *a: taken.append(a) or weights)
    fit(plan, data, tmp_path / "run", device="cpu")
    assert len(taken) == 1
    (tmp_path / "run/fold-0/weights.safetensors").unlink()  # as after a stop: the checkpoint is there
    fit(plan, data, tmp_path / "run", device="cpu", resume=True)
    load(tmp_path / "run", "cpu")
    assert len(taken) == 1


# --- a download by name ----------------------------------------------------------------------------------------------


class Hub:
    """The few answers of a model hub that its client asks for, for one repository and file."""

    def __init__(self, content, digest=None):
        self.asked, etag = [], digest or hashlib.sha256(content).hexdigest()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, body):
                hub.asked.append((self.command, self.path, self.headers.get("authorization")))
                here = self.path.endswith("/model.safetensors")
                self.send_response(200 if here else 404)
                for name, value in (("ETag", f'"{etag}"'), ("X-Repo-Commit", "0" * 40), ("Accept-Ranges", "none"),
                                    ("Content-Length", str(len(content) if here else 0))):
                    self.send_header(name, value)
                self.end_headers()
                if body and here:
                    self.wfile.write(content)

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub_at(monkeypatch, tmp_path):
    """Point the client to a hub of ours, with a cache of its own."""
    real = huggingface_hub.hf_hub_download

    def point(address):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download",
                            functools.partial(real, endpoint=address, cache_dir=tmp_path / "cache"))
    return point


def test_a_named_download_is_made_once_and_checked(hub_at, monkeypatch):
    content = save(timm_state())
    with Hub(content) as hub:
        hub_at(hub.address)
        digest = digest_of(SMALL, "imagenet")
        assert digest == hashlib.sha256(content).hexdigest()
        begun = begin(encoder_plan("imagenet", digest=digest))
        fetched = [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".safetensors")]
        assert len(fetched) == 1
        assert fetched[0].startswith("/timm/test_efficientnet.r160_in1k/resolve/")
        assert not any(secret for *_, secret in hub.asked)
    assert torch.equal(begun["net.encoder.model.conv_stem.weight"], timm_state()["conv_stem.weight"])
    begin(encoder_plan("imagenet", digest=digest))  # the hub is gone, the copy is not


def test_a_download_that_is_not_what_its_hash_says_is_refused(hub_at):
    with Hub(save(timm_state()), digest="a" * 64) as hub:
        hub_at(hub.address)
        with pytest.raises(FileError, match=r"another SHA-256.*delete the file"):
            digest_of(SMALL, "imagenet")


def test_without_a_network_the_error_says_what_to_do(hub_at, offline, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its tries
    hub_at("http://127.0.0.1:9")
    with pytest.raises(FileError, match=r"no download of smp-hub/resnet18\.imagenet.*its path to --encoder-weights"):
        digest_of("resnet18", "imagenet")


@pytest.mark.parametrize(("encoder", "name", "said"), [
    ("resnet18", "imagnet", "one of imagenet"), (SMALL, "ssl", "one of imagenet"),
    ("tu-nfnet_f0", "imagenet", "no download is known"), ("no_such", "imagenet", "no download is known")])
def test_a_download_nobody_offers_is_refused_without_asking(encoder, name, said, offline):
    with pytest.raises(PlanError, match=said):
        digest_of(encoder, name)
