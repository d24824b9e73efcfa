"""Hypothesis strategies for pairs of instance labels, and the plainest way to look at them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

IDS = np.array([0, 3, 7, 70_000, 2**40 + 1])


@st.composite
def label_pairs(draw, *, masked=False, ids=5):
    """Truth and prediction with few objects of sparse, huge ids; with ``masked`` also a valid mask, else None."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    drawn = hnp.arrays(np.int8, shape, elements=st.integers(0, ids - 1))
    truth, found = (IDS[draw(drawn)] for _ in range(2))
    valid = draw(hnp.arrays(np.bool_, shape)) if masked else None
    return truth, found, valid


def masks(labels, valid=None):
    """One boolean mask per object that has a valid voxel, by ascending id."""
    known = np.ones(labels.shape, bool) if valid is None else valid
    return {int(k): (labels == k) & known for k in np.unique(labels[known]) if k}


def iou(a, b):
    return np.sum(a & b) / np.sum(a | b)


def renamed(labels, seed):
    """The same objects under other ids."""
    present = np.unique(labels[labels > 0])
    fresh = np.random.default_rng([seed]).permutation(present.size) * 11 + 5
    out = np.zeros(labels.shape, np.int64)
    for old, new in zip(present, fresh, strict=True):
        out[labels == old] = new
    return out
