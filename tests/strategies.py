"""Hypothesis strategies for the nouns: grids in any orientation, images of any dtype, sparse huge label ids."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from biosegkit.grid import Grid
from biosegkit.image import Image, Labels

SIZES = st.integers(1, 9)
STEPS = st.floats(2**-10, 1000, allow_nan=False, width=32)


@st.composite
def grids(draw, *, ndim=None, plain=False, units=("mm", "um", "nm", "px"), float32=False):
    """Any shape of 1 to 9, spacing 1e-3 to 1e3; unless ``plain`` also any turn, rotation and origin."""
    n = draw(st.sampled_from([2, 3])) if ndim is None else ndim
    shape = tuple(draw(SIZES) for _ in range(n))
    grid = Grid.regular(shape, tuple(draw(STEPS) for _ in range(n)), draw(st.sampled_from(units)))
    if plain:
        return grid
    affine = np.array(grid.affine)
    random = np.random.default_rng([draw(st.integers(0, 2**16))])
    if draw(st.booleans()):
        turn, _ = np.linalg.qr(random.normal(size=(n, n)))
        affine[:-1, :-1] = turn @ affine[:-1, :-1]
    else:
        affine[:-1] = affine[random.permutation(n)] * random.choice([-1.0, 1.0], (n, 1))
    affine[:-1, -1] = random.normal(size=n) * 100
    return Grid(shape, affine.astype(np.float32) if float32 else affine, grid.unit)


@st.composite
def images(draw, space, dtypes, channels=(1, 2, 3)):
    """An image on a drawn grid with the extremes of its dtype among the voxels."""
    grid = draw(space)
    kind = np.dtype(draw(st.sampled_from(list(dtypes))))
    random = np.random.default_rng([draw(st.integers(0, 2**16))])
    shape = (draw(st.sampled_from(channels)), *grid.shape)
    if kind.kind == "f":
        array = random.normal(size=shape).astype(kind)
    else:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        array = random.integers(low, high, shape, dtype=kind, endpoint=True)
        array.flat[0] = random.choice(np.array([low, high], kind))
    return Image(array, grid)


@st.composite
def labels(draw, space, top=2**32 - 1):
    """Instance labels with few, sparse, possibly huge ids."""
    grid = draw(space)
    ids = np.array([0, *draw(st.lists(st.integers(1, top), min_size=1, max_size=5))], np.uint64)
    random = np.random.default_rng([draw(st.integers(0, 2**16))])
    return Labels.from_values(ids[random.integers(0, len(ids), grid.shape)], grid, "instance")
