"""Reading a patch through a linear map, against scipy's map_coordinates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit.kernels.affine import affine_linear, affine_nearest


def coordinates(shape, matrix, centre):
    offsets = np.indices(shape).reshape(len(shape), -1) - (np.array(shape)[:, None] - 1) / 2
    return matrix @ offsets + np.array(centre, float)[:, None]


@given(st.sampled_from([2, 3]), st.integers(0, 2**16), st.booleans())
@settings(deadline=None, max_examples=70)
def test_linear_and_nearest_are_those_of_scipy(ndim, seed, bent):
    rng = np.random.default_rng([seed])
    box = rng.normal(size=(2, *rng.integers(1, 9, ndim))).astype(np.float32)
    shape = tuple(int(n) for n in rng.integers(1, 8, ndim))
    matrix = np.eye(ndim) + 0.5 * rng.normal(size=(ndim, ndim))
    centre = rng.uniform(-1, 9, ndim)
    shift = rng.normal(size=(ndim, *shape)).astype(np.float32) if bent else None
    where = coordinates(shape, matrix, centre)
    if bent:
        where = where + matrix @ shift.reshape(ndim, -1).astype(float)
    for found, order in ((affine_linear(box, shape, matrix, centre, shift), 1),
                         (affine_nearest(box, shape, matrix, centre, shift), 0)):
        expected = [ndimage.map_coordinates(c, where, order=order, mode="nearest").reshape(shape) for c in box]
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.bool_, np.int64])
def test_nearest_keeps_the_type_and_invents_no_id(kind):
    rng = np.random.default_rng(0)
    box = (rng.integers(0, 3, (1, 6, 7)) * np.array(100, kind)).astype(kind)
    found = affine_nearest(box, (9, 9), np.array([[0.8, 0.6], [-0.6, 0.8]]), (2.5, 3.0))
    assert found.dtype == box.dtype
    assert set(np.unique(found)) <= set(np.unique(box))


def test_a_quarter_turn_is_exact():
    box = np.arange(25.0).reshape(1, 5, 5)
    # a patch offset (y, x) reads the box at (x, -y): the patch is the box turned by 90 degrees anticlockwise
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert np.array_equal(affine_linear(box, (5, 5), turn, (2, 2))[0], np.rot90(box[0], k=1).astype(np.float32))
    assert np.array_equal(affine_nearest(box, (5, 5), turn, (2, 2))[0], np.rot90(box[0], k=1))


def test_the_identity_is_a_crop_and_the_border_is_continued():
    box = np.arange(36.0).reshape(1, 6, 6)
    assert np.array_equal(affine_linear(box, (3, 3), np.eye(2), (2, 3))[0], box[0, 1:4, 2:5])
    outside = affine_linear(box, (1, 1), np.eye(2), (-50, 99))
    assert outside.item() == box[0, 0, 5]


def test_a_box_that_is_no_plain_array_is_read_too():
    whole = np.arange(120.0).reshape(1, 10, 12)
    view = whole[:, ::2, ::-1]
    assert np.array_equal(affine_linear(view, (5, 12), np.eye(2), (2, 5.5)), view.astype(np.float32))
