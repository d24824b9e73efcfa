"""Solidity and star-convexity: against hulls of voxel centres by scikit-image, and shapes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import Delaunay, QhullError

from biosegkit.convexity import solidity, star_convexity
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.object_shapes import joined, sample_objects

Y, X = np.mgrid[:64, :64]
R = np.hypot(Y - 32, X - 32)


def star(mask):
    return star_convexity(mask, ndimage.distance_transform_edt(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim])


def rod(width, length, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    u, v = (X - 32) * c + (Y - 32) * s, (Y - 32) * c - (X - 32) * s
    return (np.abs(u) <= length / 2) & (np.abs(v) <= width / 2)


@pytest.mark.parametrize("mask", [R <= 1, R <= 2, R <= 20, rod(4, 40, 0), rod(4, 40, 30), rod(2, 50, 77),
                                  np.eye(9, dtype=bool), np.ones((1, 7), bool)])
def test_convex_shapes_of_any_size_are_convex(mask):
    assert solidity(mask) == pytest.approx(1, abs=0.02)
    assert star(mask) == 1


def test_a_corner_by_hand():
    # of the six voxels in the triangle, one is missing
    assert solidity(np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], bool)) == pytest.approx(5 / 6)


def test_rings_and_bent_shapes_are_neither():
    ring = (R <= 30) & (R >= 20)
    assert solidity(ring) == pytest.approx((30**2 - 20**2) / 30**2, abs=0.02)
    # From a point at radius 25 a chord that passes the hole at 20 sees what lies within acos(20/25) and beyond it, up
    # to acos(20/25) + acos(20/30) at the outer rim: between 0.205 and 0.339 of the angle on both sides together.
    assert 0.2 < star(ring) < 0.45
    bent = (R <= 28) & (R >= 20) & (Y < 32)
    assert star(bent) < 0.8
    assert solidity(bent) < 0.6
    assert star((R <= 20) | ((np.abs(X - 32) <= 5) & (Y < 32))) == 1  # a disc with a handle: convex no more, but a star


@pytest.mark.parametrize("shape", [(14, 11), (7, 8, 6)])
@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_solidity_is_that_of_the_hull_of_the_voxel_centres(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.15
    points = np.argwhere(mask)
    try:
        hull = Delaunay(points)
    except (QhullError, ValueError):
        return
    inside = hull.find_simplex(np.argwhere(np.ones(shape, bool)).astype(float), tol=1e-9) >= 0
    assert solidity(mask) == pytest.approx(len(points) / np.count_nonzero(inside))


def test_a_ball_and_a_cup_in_3d():
    z, y, x = np.mgrid[:24, :24, :24] - 12
    ball = z**2 + y**2 + x**2 <= 100
    assert (solidity(ball), star(ball)) == (1, 1)
    cup = ball & (z**2 + y**2 + x**2 >= 49) & (z > -4)
    assert solidity(cup) < 0.8
    assert star(cup) < 0.7


def measured(array):
    labels = Labels.from_values(array, Grid.regular(array.shape), "instance")
    return sample_objects(labels, np.bincount(array.ravel()), np.random.default_rng(0), sizes=9, shapes=9)


def test_contact_is_the_share_of_faces_on_other_objects():
    array = np.zeros((6, 8), int)
    array[1:5, 1:4], array[2:4, 4:6] = 1, 2
    found = measured(array)
    # 14 faces around the first, 8 around the second; two of each are shared
    assert (found.touching, found.faces, found.contacts, found.voxels) == (2, 22, 4, 48)
    assert joined([found, found]).faces == 44
    halves = np.repeat([[1, 2]], 4, 0)
    assert (measured(halves).faces, measured(halves).contacts) == (8, 8)  # the border of the image is no face
    assert found.solidity.tolist() == [1, 1]
    assert found.star.tolist() == [1, 1]
