"""Which objects are wrong, and how: compared with the rules, applied object by object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from biosegkit.error_map import error_objects
from biosegkit.grid import Grid
from biosegkit.image import Labels
from biosegkit.kernels.overlap import overlap_counts
from biosegkit.metrics import split_merge_counts


def labels(values, task="instance", **options):
    return Labels.from_values(np.asarray(values), Grid.regular(np.shape(values)), task, **options)


def by_rule(found, true):
    """Sets of ids from masks, one pair of objects at a time."""
    masks = [{int(i): a == i for i in np.unique(a) if i} for a in (found, true)]
    shared = {(p, t): int((masks[0][p] & masks[1][t]).sum()) for p in masks[0] for t in masks[1]}
    size = [{i: int(m.sum()) for i, m in side.items()} for side in masks]
    matched = {(p, t) for (p, t), n in shared.items() if n and n / (size[0][p] + size[1][t] - n) > 0.5}
    halves = [(p, t) for (p, t), n in shared.items() if n and n / (size[0][p] + size[1][t] - n) == 0.5]
    pieces = {t: [p for p in masks[0] if 2 * shared[p, t] > size[0][p] and 10 * shared[p, t] >= size[1][t]]
              for t in masks[1]}
    parts = {p: [t for t in masks[1] if 2 * shared[p, t] > size[1][t] and 10 * shared[p, t] >= size[0][p]]
             for p in masks[0]}
    splits = {p for some in pieces.values() if len(some) > 1 for p in some}
    split = {t for t, some in pieces.items() if len(some) > 1}
    merging = {p for p, some in parts.items() if len(some) > 1}
    merged = {t for some in parts.values() if len(some) > 1 for t in some}
    return {"false positives": set(masks[0]) - {p for p, _ in matched} - splits - merging,
            "misses": set(masks[1]) - {t for _, t in matched} - split - merged,
            "splits": splits, "merges": merged}, halves


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), ndim=st.sampled_from([2, 3]))
def test_objects_are_sorted_by_the_rules(seed, ndim):
    rng = np.random.default_rng([seed, 2])
    shape = (14, 16) if ndim == 2 else (5, 8, 8)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, 6, *shape)), (0, 0, *(1.2,) * ndim))
    fields[1] = 0.6 * fields[0] + 0.4 * fields[1]
    found, true = (np.array([0, 3, 4, 7, 20, 300])[f.argmax(0)] for f in fields)
    expected, halves = by_rule(found, true)
    if halves:  # which of two halves is the match is the matching's own rule, tested there
        return
    shown = error_objects(labels(found), labels(true))
    assert {name: set(np.unique(a).tolist()) - {0} for name, a in shown.items()} == expected
    for name, array in shown.items():
        source = true if name in ("misses", "merges") else found
        assert np.array_equal(array, np.where(np.isin(source, list(expected[name])), source, 0))
    counts = split_merge_counts(overlap_counts(true, found))
    assert counts.merged == 0 or expected["merges"]
    assert (counts.split > 0) == bool(expected["splits"])


def test_classes_are_compared_voxel_by_voxel():
    shown = error_objects(labels([[0, 1, 1, 2, 0]], "semantic"), labels([[0, 1, 0, 1, 5]], "semantic"))
    assert {name: a.tolist() for name, a in shown.items()} == {
        "false positives": [[0, 0, 1, 0, 0]], "misses": [[0, 0, 0, 0, 5]], "wrong class": [[0, 0, 0, 2, 0]]}


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_ignored_voxels_are_no_errors(task):
    shown = error_objects(labels([[4, 4, 0, 0]], task), labels([[9, 9, 0, 9]], task, ignore_value=9))
    assert not any(a.any() for a in shown.values())
