"""Training states come back bit for bit, and weights have one identity."""

import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.checkpoint import flatten, load_latest, load_tensors, save, save_tensors, unflatten, weights_hash
from biosegkit.errors import ResumeError

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
TREES = st.recursive(LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(
    st.integers(0, 9) | st.text(max_size=4), t, max_size=3) | st.tuples(t, t), max_leaves=12)


@given(TREES)
def test_trees_survive_flattening_and_json(tree):
    import json

    tensors, skeleton = flatten(tree)
    again = unflatten(json.loads(json.dumps(skeleton, allow_nan=False)), tensors)
    assert again == tree
    assert repr(again) == repr(tree)


def _trained(make, steps, net=None, optimizer=None):
    torch.manual_seed(3)
    net = net or torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 2, 1))
    optimizer = optimizer or make(net.parameters())
    for step in range(steps):
        generator = torch.Generator().manual_seed(step + optimizer.param_groups[0].get("seen", 0))
        optimizer.zero_grad()
        net(torch.randn(2, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-2),
    lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5),
])
def test_P1_an_optimiser_goes_on_bit_for_bit_from_a_saved_state(tmp_path, make):
    net, optimizer = _trained(make, 4)
    tensors, skeleton = flatten({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    save(tmp_path, 4, tensors, {"tree": skeleton})
    straight, _ = _trained(make, 3, net, optimizer)

    tensors, state, notes = load_latest(tmp_path)
    tree = unflatten(state["tree"], tensors)
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 2, 1))
    other.load_state_dict(tree["net"])
    fresh = make(other.parameters())
    fresh.load_state_dict(tree["optimizer"])
    resumed, _ = _trained(make, 3, other, fresh)
    assert notes == ()
    assert weights_hash(resumed.state_dict()) == weights_hash(straight.state_dict())


def test_the_random_state_of_torch_survives(tmp_path):
    torch.manual_seed(5)
    save(tmp_path, 1, {"rng": torch.get_rng_state()}, {})
    expected = torch.rand(4)
    torch.set_rng_state(load_latest(tmp_path)[0]["rng"])
    assert torch.equal(torch.rand(4), expected)


def test_only_the_last_two_states_are_kept(tmp_path):
    for step in (1, 5, 20, 100):
        save(tmp_path, step, {"w": torch.full((3,), float(step))}, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000000000020.json", "step-000000000020.safetensors",
        "step-000000000100.json", "step-000000000100.safetensors"]
    assert load_latest(tmp_path)[1] == {"step": 100}


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 7, {"w": torch.zeros(1)}, {"try": 1})
    save(tmp_path, 7, {"w": torch.ones(1)}, {"try": 2})
    tensors, state, _ = load_latest(tmp_path)
    assert (tensors["w"].item(), state) == (1.0, {"try": 2})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_any_type_layout_and_sharing_come_back(tmp_path, dtype):
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    given = {"plain": base, "same": base, "part": base[:, 1:], "turned": base.permute(2, 0, 1),
             "scalar": base[0, 0, 1], "empty": base[:0]}
    save_tensors(tmp_path / "t.safetensors", given)
    again = load_tensors(tmp_path / "t.safetensors")
    assert set(again) == set(given)
    for name, tensor in given.items():
        assert again[name].dtype == dtype
        assert torch.equal(again[name], tensor)


def test_weights_hash_is_sha256_of_names_types_shapes_and_bytes():
    tensor = torch.tensor([1.0, -2.0])
    expected = hashlib.sha256(b"a|torch.float32|(2,)|" + tensor.numpy().tobytes()).hexdigest()
    assert weights_hash({"a": tensor}) == expected
    assert weights_hash({"b": tensor}) != expected
    assert weights_hash({"a": tensor.reshape(1, 2)}) != expected
    assert weights_hash({"a": tensor.clone().to(memory_format=torch.preserve_format)}) == expected


@pytest.mark.parametrize("state", [{"loss": math.nan}, {"tensor": torch.ones(1)}])
def test_a_state_that_is_no_json_is_refused(tmp_path, state):
    with pytest.raises(ResumeError, match="JSON"):
        save(tmp_path, 1, {"w": torch.ones(1)}, state)


def test_flatten_refuses_what_it_cannot_bring_back():
    with pytest.raises(ResumeError, match="set at a/b"):
        flatten({"a": {"b": {1, 2}}})


def test_a_skeleton_without_its_tensor_is_refused():
    _, skeleton = flatten({"a": torch.ones(1)})
    with pytest.raises(ResumeError, match="no a"):
        unflatten(skeleton, {})


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_numpy_generator_states_survive(seed):
    import numpy as np

    generator = np.random.default_rng(seed)
    generator.random(3)
    _, skeleton = flatten(generator.bit_generator.state)
    other = np.random.default_rng(0)
    other.bit_generator.state = unflatten(skeleton, {})
    assert (other.random(5) == generator.random(5)).all()
