"""What a plan says of networks: the table in step with the builders, wishes checked, choices reasoned."""

import json

import pytest
from small_sets import tiny_plan
from test_draft import fingerprint, plan_of

from biosegkit.errors import PlanError
from biosegkit.nets import NETS
from biosegkit.plan.networks import NETWORKS, Network, checked_network, network_decisions
from biosegkit.plan.schema import Architecture, Plan


def test_every_network_is_described_and_every_description_is_built():
    assert set(NETWORKS) == set(NETS)
    assert all(row.summary and row.choose_when and set(row.ndims) <= {2, 3} and row.ndims for row in NETWORKS.values())


@pytest.mark.parametrize(("name", "remedy"), [("unnet", "did you mean --network unet"), ("vnet", "unet"),
                                              ("attention", "attention_unet"), ("q", "choose another")])
def test_an_unknown_network_names_the_nearest_and_all(name, remedy):
    with pytest.raises(PlanError, match=rf"network '{name}'.*unet, attention_unet.*{remedy}"):
        checked_network(name, 2)


@pytest.fixture
def flat_only(monkeypatch):
    """A network for planes alone that pools as it likes."""
    monkeypatch.setitem(NETWORKS, "flat", Network((2,), False, "for the test", "never"))


@pytest.mark.usefixtures("flat_only")
def test_a_network_of_planes_is_refused_for_volumes_with_a_remedy():
    with pytest.raises(PlanError, match=r"'flat' for a 3D.*expected 2D.*--config 2d.*3D: unet, attention_unet"):
        plan_of(fingerprint((64, 64, 64)), network="flat")
    assert plan_of(fingerprint((64, 64, 64)), network="flat", config="2d").configuration.ndim == 2
    assert set(plan_of(fingerprint((64, 64, 64)), network="flat", config="2d").alternatives) == set()


def decision(plan, name):
    return next((d for d in plan.decisions if d.name == name), None)


@pytest.mark.usefixtures("flat_only")
def test_the_plan_says_when_a_network_cannot_honour_anisotropy():
    long = plan_of(fingerprint((256, 256), (1.0, 4.0)), network="flat")
    said = decision(long, "network topology").reason
    assert said.startswith("warning:")
    assert "unet, attention_unet" in said
    assert "flat" not in said
    square = decision(plan_of(fingerprint((256, 256)), network="flat"), "network topology").reason
    assert "warning" not in square
    assert decision(plan_of(fingerprint((256, 256))), "network topology") is None


@pytest.mark.parametrize("preset", ["default", "nnunet", "resenc_m"])
@pytest.mark.parametrize("wish", [None, "unet", "resenc_unet"])
def test_every_plan_says_which_network_it_would_choose_and_why(preset, wish):
    own = "resenc_unet" if preset == "resenc_m" else "unet"
    plan = plan_of(fingerprint((64, 64, 64)), preset=preset, network=wish)
    assert plan.configuration.architecture.name == (wish or own)
    said = decision(plan, "network")
    assert said.value.startswith(f"{wish or own}: ")
    assert ("asked for" in said.reason) is (wish not in (None, own))
    assert own == "unet" or "preset" in said.reason
    assert f"it would be {own}" in said.reason or wish in (None, own)


def test_the_decision_follows_the_final_topology():
    net = Architecture(features=(8,), kernels=((3, 3),), strides=((1, 1),), encoder_blocks=(1,), decoder_blocks=())
    assert [d.name for d in network_decisions(net, "unet")] == ["network"]


def test_an_encoder_is_written_only_where_there_is_one():
    plan = tiny_plan()
    text = json.loads(plan.model_dump_json())["configuration"]["architecture"]
    assert not [k for k in text if k in ("encoder", "encoder_weights")]
    assert "encoder_blocks" in text
    net = plan.configuration.architecture.model_copy(update={"encoder": "resnet18", "encoder_weights": "imagenet"})
    with_encoder = plan.model_copy(update={
        "configuration": plan.configuration.model_copy(update={"architecture": net})})
    assert with_encoder.hash != plan.hash
    assert Plan.from_data(json.loads(with_encoder.model_dump_json())) == with_encoder
    assert Plan.from_data(json.loads(plan.model_dump_json())) == plan


def test_an_architecture_without_encoder_is_written_as_before_there_were_encoders():
    net = tiny_plan().configuration.architecture
    assert net.model_dump_json() == (
        '{"name":"unet","features":[4,6,8],"kernels":[[3,3],[3,3],[3,3]],"strides":[[1,1],[2,2],[2,2]],'
        '"encoder_blocks":[1,1,1],"decoder_blocks":[1,1],"norm":"group","deep_supervision":true}')
