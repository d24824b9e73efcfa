"""Heat of large objects, most of whose steps are walked on coarser grids, against all steps walked voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels_flow import slow_heat

from biosegkit.kernels import heat_flow as module
from biosegkit.kernels.heat_flow import heat_flow
from biosegkit.methods import Flow, decode


@pytest.fixture
def coarse(monkeypatch):
    """Small objects, too, begin on coarser grids."""
    monkeypatch.setattr(module, "_WORK", 1 << 14)


def voxel_by_voxel(labels, spacing=None, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WORK", 1 << 62)
        return heat_flow(labels, spacing, **more)


def disc():
    y, x = np.ogrid[:151, :160]
    return (np.hypot(y - 74.7, x - 80.2) <= 73).astype(np.int32)


def crescent():
    """Bent, of odd height and even width, its centre outside."""
    y, x = np.ogrid[:191, :190]
    return 7 * ((np.hypot(y - 95, x - 95) < 94) & (np.hypot(y - 95, x - 130) >= 66)).astype(np.int32)


SHAPES = {
    "disc": (disc(), None),
    "crescent": (crescent(), None),
    "frame": (np.ones((128, 151), np.int32), None),
    "ball": ((sum((p - c) ** 2 for p, c in zip(np.ogrid[:41, :52, :52], (20, 25.3, 26), strict=True)) <= 20**2
              ).astype(np.int32), None),
    "frame of a volume": (np.ones((24, 40, 41), np.int32), None),
    "thick slices": ((sum(((p - c) * s) ** 2 for p, c, s in zip(np.ogrid[:17, :70, :71], (8, 35, 35.4), (4, 1, 1),
                                                                 strict=True)) <= 33**2).astype(np.int32), (4, 1, 1)),
}


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", SHAPES)
def test_coarser_grids_turn_the_flow_little(name):
    labels, spacing = SHAPES[name]
    found, expected = heat_flow(labels, spacing), voxel_by_voxel(labels, spacing)
    assert found.tobytes() != expected.tobytes()  # grids were used
    inside = labels > 0
    apart = np.square(found - expected).sum(0)[inside]
    moving = (np.square(found).sum(0) > 0.5) & (np.square(expected).sum(0) > 0.5)
    angle = np.degrees(np.arccos(np.clip((found * expected).sum(0)[moving], -1, 1)))
    assert moving.sum() > 0.999 * inside.sum()
    assert np.median(angle) < 1.5  # grids of objects as small as these have few cells: less in large ones
    assert np.quantile(angle, 0.99) < 7
    assert apart.mean() < 1e-3
    assert not found[:, ~inside].any()


@pytest.mark.usefixtures("coarse")
def test_coarser_grids_flow_as_plain_means_have_it():
    labels = disc()
    sides = [np.ptp(axis) + 1 for axis in np.nonzero(labels)]
    expected = slow_heat(np.pad(labels > 0, 1), int(2 * (sum(sides) + 2)))[:, 1:-1, 1:-1]
    found = heat_flow(labels, border=True)
    inside = (labels > 0) & (np.square(expected).sum(0) > 0.5) & (np.square(found).sum(0) > 0.5)
    assert inside.sum() > 0.99 * labels.sum()
    assert np.quantile((found * expected).sum(0)[inside], 0.01) > np.cos(np.radians(6))


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("name", ["crescent", "thick slices", "frame of a volume"])
def test_turning_a_large_object_turns_its_flow(name):
    labels, spacing = SHAPES[name]
    found, ndim = heat_flow(labels, spacing), labels.ndim
    for axis in range(ndim):
        flipped = np.flip(heat_flow(np.ascontiguousarray(np.flip(labels, axis)), spacing), 1 + axis)
        sign = np.where(np.arange(ndim) == axis, -1, 1).reshape(-1, *(1,) * ndim)
        np.testing.assert_allclose(flipped * sign, found, atol=1e-4)
    turned = np.swapaxes(heat_flow(np.ascontiguousarray(np.swapaxes(labels, -1, -2)), spacing), -1, -2)
    np.testing.assert_allclose(turned[[*range(ndim - 2), ndim - 1, ndim - 2]], found, atol=1e-4)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("what", ["gaps of a voxel", "holes of a voxel", "two voxels wide"])
def test_shapes_that_no_coarser_grid_shows_are_walked_voxel_by_voxel(what):
    labels = np.zeros((120, 130), np.int32)
    labels[5:-5, 5:-5] = 1
    if what == "gaps of a voxel":  # a meander: what is near across a gap is far along the object
        labels[10::10, 5:-12] = 0
        labels[15::10, 12:-5] = 0
    elif what == "holes of a voxel":
        labels[9:-9:7, 9:-9:6] = 0
    else:
        labels[7:-7, 7:-7] = 0
    assert heat_flow(labels).tobytes() == voxel_by_voxel(labels).tobytes()


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("shape", [(201, 190), (25, 60, 61)])
def test_large_objects_come_back(shape):
    labels = np.ones(shape, np.int32)
    labels[..., shape[-1] // 2] = 0
    labels[..., shape[-1] // 2 + 1:] *= 2
    found, table = decode(Flow(), Flow().ideal(Flow().encode(labels, (1.0,) * len(shape))[0]))
    assert np.array_equal(found, labels)
    assert len(table["id"]) == 2
