"""The likeliest class in one pass is what numpy finds step by step."""

import numpy as np
import pytest

from biosegkit.kernels.likeliest import likeliest


def by_steps(probs):
    """The definition, with whole arrays; shares and probabilities rounded as float32."""
    background, others = probs[0], probs[1:]
    best = others.argmax(0)
    found = np.take_along_axis(others, best[None], 0)[0]
    rounded = [np.rint(p * np.float32(255)).astype(np.uint8)
               for p in (found, found / np.maximum(found + background, np.finfo(np.float32).tiny))]
    share = np.where(found > background, np.maximum(rounded[1], 128), np.minimum(rounded[1], 127))
    return best + 1, rounded[0], share


@pytest.mark.parametrize(("classes", "shape"), [(2, (7, 9)), (5, (3, 8, 6)), (300, (4, 5))])
def test_class_probability_and_share_are_those_found_step_by_step(classes, shape):
    rng = np.random.default_rng(classes)
    probs = rng.random((classes, *shape), np.float32) ** 4
    probs /= probs.sum(0)
    probs[:, 0] = 0  # nothing at all
    probs[:, 1] = np.float32(1 / classes)  # all alike: the first class but the background, which is no less
    found, expected = likeliest(probs), by_steps(probs)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)
    assert found[0].dtype == (np.uint8 if classes <= 256 else np.uint16)
    assert (found[0][1] == 1).all()
    assert (found[2][1] == 127).all()  # a half is not more


def test_the_core_of_a_block_is_read_where_it_lies():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (12, 10)).astype(np.float32).transpose(2, 0, 1)
    core = probs[:, 2:9, 3:7]
    assert not core.flags["C_CONTIGUOUS"]
    for a, b in zip(likeliest(core), likeliest(core.copy()), strict=True):
        assert np.array_equal(a, b)


def test_a_class_just_above_the_background_has_a_share_above_one_half():
    more = np.nextafter(np.float32(0.4), np.float32(1))
    probs = np.array([[[0.4, 0.4]], [[more, 0.4]]], np.float32)
    assert likeliest(probs)[2].tolist() == [[128, 127]]
