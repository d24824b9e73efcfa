"""The one geometry: every operation keeps voxels where they are in the world."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import grids

from biosegkit.errors import DataError
from biosegkit.grid import Grid, Turn


@st.composite
def turns(draw, n):
    perm = draw(st.permutations(range(n)))
    flips = tuple(a for a in range(n) if draw(st.booleans()))
    return Turn(tuple(perm), flips)


def world(grid, index):
    """World position of an array index, by the definition of the affine."""
    return np.asarray(grid.affine)[:-1] @ np.array([*index, 1.0])


def positions(grid):
    """World position of every voxel, (*shape, ndim)."""
    index = np.stack(np.meshgrid(*(np.arange(s) for s in grid.shape), indexing="ij"), -1)
    return index @ np.asarray(grid.affine)[:-1, :-1].T + np.asarray(grid.affine)[:-1, -1]


# --- turns -----------------------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from([2, 3]))
def test_inverse_undoes_a_turn_exactly(data, n):
    turn = data.draw(turns(n))
    array = np.arange(2 * np.prod(range(2, 2 + n))).reshape(2, *range(2, 2 + n))
    assert np.array_equal(turn.inverse().apply(turn.apply(array)), array)
    assert np.array_equal(turn.apply(turn.inverse().apply(array)), array)
    assert turn.then(turn.inverse()).is_identity


@given(st.data(), st.sampled_from([2, 3]))
def test_then_is_one_after_the_other(data, n):
    first, second = data.draw(turns(n)), data.draw(turns(n))
    array = np.arange(np.prod(range(2, 2 + n))).reshape(range(2, 2 + n))
    assert np.array_equal(first.then(second).apply(array), second.apply(first.apply(array)))


def test_a_turn_by_hand():
    # axes exchanged, then the new first axis reversed: rows of the result are columns from the right
    assert Turn((1, 0), (0,)).apply(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 6], [2, 5], [1, 4]]


# --- derived from the affine -----------------------------------------------------------------------------------------


@given(grids(plain=True))
def test_a_regular_grid_has_the_spacing_it_was_given(grid):
    expected = [np.linalg.norm(world(grid, np.eye(grid.ndim)[a]) - world(grid, np.zeros(grid.ndim)))
                for a in range(grid.ndim)]
    assert np.allclose(grid.spacing, expected, rtol=1e-9)
    assert grid.orientation == ("SAR" if grid.ndim == 3 else "AR")
    assert grid.canonical_turn().is_identity


def test_every_letter_of_the_orientation_by_hand():
    # the array axes point to -x, +z, -y: left, superior, posterior
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -2, 3, -5, 1
    grid = Grid((2, 2, 2), affine, "mm")
    assert grid.orientation == "LSP"
    assert grid.spacing == (2.0, 3.0, 5.0)
    assert grid.canonical_turn() == Turn((1, 2, 0), (1, 2))


@given(grids())
def test_G5_the_canonical_turn_makes_axes_point_along_z_y_x(grid):
    turned = grid.turned(grid.canonical_turn())
    assert turned.canonical_turn().is_identity
    assert turned.orientation == ("SAR" if grid.ndim == 3 else "AR")


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_G5_one_anatomy_in_any_storage_becomes_one_array(perm, flips):
    anatomy = np.arange(24).reshape(2, 3, 4)
    grid = Grid.regular((2, 3, 4), (3.0, 2.0, 1.0), "mm")
    turn = Turn(perm, flips)
    stored, at = turn.apply(anatomy), grid.turned(turn)
    back = at.canonical_turn()
    assert np.array_equal(back.apply(stored), anatomy)
    assert at.turned(back).mismatch(grid) < 1e-9


@given(st.data(), grids())
def test_turned_keeps_every_voxel_in_the_world(data, grid):
    turn = data.draw(turns(grid.ndim))
    where = positions(grid)
    moved = np.moveaxis(turn.apply(np.moveaxis(where, -1, 0)), 0, -1)
    scale = max(np.abs(where).max(), 1)
    assert np.allclose(positions(grid.turned(turn)), moved, atol=1e-9 * scale)


@given(st.data(), grids())
def test_turned_and_back_is_the_same_place(data, grid):
    turn = data.draw(turns(grid.ndim))
    again = grid.turned(turn).turned(turn.inverse())
    assert again.shape == grid.shape
    assert again.mismatch(grid) < 1e-6


# --- windows and sizes -----------------------------------------------------------------------------------------------


@given(st.data(), grids())
def test_a_window_starts_at_its_voxel(data, grid):
    start = tuple(data.draw(st.integers(-3, n)) for n in grid.shape)
    found = world(grid.window(start, (2,) * grid.ndim), (0,) * grid.ndim)
    assert np.allclose(found, world(grid, start), rtol=1e-9, atol=1e-9)
    assert grid.window(start, grid.shape).spacing == grid.spacing


@given(st.data(), grids())
def test_G9_resized_keeps_the_outer_borders(data, grid):
    shape = tuple(data.draw(st.integers(1, 20)) for _ in grid.shape)
    other = grid.resized(shape)
    for corner in itertools.product((0, 1), repeat=grid.ndim):
        mine = world(grid, [-0.5 + c * n for c, n in zip(corner, grid.shape, strict=True)])
        its = world(other, [-0.5 + c * n for c, n in zip(corner, shape, strict=True)])
        assert np.allclose(mine, its, atol=1e-7 * max(1, np.abs(mine).max()))


def test_resized_by_hand():
    # 4 voxels of 1 → 2 voxels of 2: the first centre moves by half an old voxel
    small = Grid.regular((4, 4), 1.0, "mm").resized((2, 4))
    assert small.spacing == (2.0, 1.0)
    assert world(small, (0, 0)).tolist() == [0.0, 0.5]


@given(grids())
def test_with_spacing_keeps_directions_and_first_voxel(grid):
    other = grid.with_spacing((2.5,) * grid.ndim, "um")
    assert np.allclose(other.spacing, 2.5)
    assert other.unit == "um"
    assert np.allclose(other.direction, grid.direction, atol=1e-9)
    assert np.array_equal(other.affine[:, -1], grid.affine[:, -1])


def test_G2_mismatch_is_the_largest_corner_distance_in_voxels():
    grid = Grid.regular((3, 11), (2.0, 0.5), "mm")
    stretched = grid.with_spacing((2.0, 0.55))
    # ten steps of 0.05 more along x, 0.5 mm, are one voxel
    assert grid.mismatch(stretched) == pytest.approx(1.0)
    assert grid.mismatch(grid.window((0, 0), (3, 10))) == float("inf")
    assert grid.mismatch(grid) == 0


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [
    np.diag([1.0, np.nan, 1.0]), np.diag([1.0, 0.0, 1.0]), np.ones((3, 3)), np.eye(4), np.zeros((3, 3)),
    np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]]), np.diag([1.0, 1.0, 0.0]), np.diag([1.0, np.inf, 1.0]),
])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_G6_an_affine_without_geometry_is_refused(affine):
    with pytest.raises(DataError):
        Grid((2, 2), affine)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf, (1.0,), (1.0, 2.0, 3.0)])
def test_G6_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(DataError, match="spacing"):
        Grid.regular((2, 2), spacing)


def test_V12_an_empty_axis_is_refused():
    with pytest.raises(DataError, match="empty axis"):
        Grid.regular((3, 0))


def test_G4_shear_is_measured():
    affine = np.eye(4)
    affine[0, 1] = 0.1
    sheared = Grid((2, 2, 2), affine, "mm")
    # columns (1, 0, 0) and (0.1, 1, 0)/√1.01: their product is 0.1/√1.01
    assert sheared.orthonormality == pytest.approx(0.1 / np.sqrt(1.01))
    assert Grid.regular((2, 2)).orthonormality == 0


@given(grids())
def test_G8_a_grid_survives_plain_data_bit_for_bit(grid):
    import json

    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid
    assert hash(again) == hash(grid)


def test_the_affine_cannot_be_changed():
    grid = Grid.regular((2, 2))
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5
    mine = np.eye(3)
    other = Grid((2, 2), mine)
    mine[0, 0] = 9
    assert other.affine[0, 0] == 1
