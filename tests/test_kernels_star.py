"""Rays, distances along them, suppression and painting against brute force, geometry and the stardist package."""

import numpy as np
import pytest

from biosegkit.errors import DataError, OptionError
from biosegkit.kernels import ray_bytes
from biosegkit.kernels.distance import boundary_distance
from biosegkit.kernels.ray_distances import ray_distances, sparse_ray_distances
from biosegkit.kernels.rays import circle, sphere, spiral
from biosegkit.kernels.star_nms import suppress
from biosegkit.kernels.star_painting import paint_shapes
from biosegkit.methods import Star, decode, oracle
from biosegkit.methods.star_decoding import star_labels

BOTH = pytest.mark.parametrize("rays", [circle(16), sphere(32), spiral(24)], ids=["circle", "sphere", "spiral"])


def blobs(shape, count, seed, low=3, high=8, top=None):
    """Balls, the later ones over the earlier."""
    rng = np.random.default_rng(seed)
    labels, points = np.zeros(shape, np.int64), np.indices(shape)
    for k in range(1, count + 1):
        centre = rng.uniform(0, shape).reshape(-1, *(1,) * len(shape))
        labels[((points - centre) ** 2).sum(0) <= rng.uniform(low, high) ** 2] = k if top is None else top - k
    return labels


@BOTH
def test_rays_are_unit_and_faces_enclose_the_centre(rays):
    assert np.allclose(np.linalg.norm(rays.directions, axis=1), 1)
    corners = rays.directions[rays.faces]
    solid = np.abs(np.linalg.det(corners)).sum() / (2 if rays.ndim == 2 else 6)
    ball = np.pi if rays.ndim == 2 else 4 / 3 * np.pi
    assert 0.75 * ball < solid < ball
    assert solid * rays.swell**rays.ndim == pytest.approx(ball)


def test_mirrored_rays_are_rays():
    for rays in (circle(32), sphere(96)):
        for axis in range(rays.ndim):
            partner = rays.mirrored([axis])
            turned = rays.directions.copy()
            turned[:, axis] *= -1
            assert np.allclose(rays.directions[partner], turned, atol=1e-9)
            assert np.array_equal(partner[partner], np.arange(len(rays)))
    with pytest.raises(DataError, match="do not fall on each other"):
        spiral(96).mirrored([0])
    with pytest.raises(DataError, match="multiple of 8"):
        sphere(20)


def walked(labels, rays, spacing, at):
    """The length of every ray in tiny steps: where the voxel it is in is of another object, or outside."""
    found = []
    for step in rays.directions / np.array(spacing):
        length = 0.0
        while True:
            place = np.floor(np.array(at) + 0.5 + (length + 0.0025) * step).astype(int)
            if (place < 0).any() or (place >= labels.shape).any() or labels[tuple(place)] != labels[tuple(at)]:
                break
            length += 0.005
        found.append(length)
    return np.array(found)


@pytest.mark.parametrize(("shape", "rays", "spacing"), [((24, 27), circle(12), (1.0, 1.0)),
                                                        ((20, 22), circle(8), (0.5, 0.8)),
                                                        ((9, 14, 13), sphere(16), (2.0, 1.0, 1.0))])
def test_distances_as_tiny_steps_find_them(shape, rays, spacing):
    labels = blobs(shape, 5, 1, top=2**31)
    found = ray_distances(labels, rays, spacing, border=True)
    places = np.argwhere(labels)
    for at in places[:: max(1, len(places) // 8)]:
        assert np.allclose(found[(slice(None), *at)], walked(labels, rays, spacing, at), atol=0.012)
    assert not found[:, labels == 0].any()
    cut = ray_distances(labels, rays, spacing)
    assert np.array_equal(np.abs(cut), found)
    inner = labels == labels[tuple(s // 2 for s in shape)]
    if not any(np.take(inner, e, a).any() for a in range(inner.ndim) for e in (0, -1)):
        assert (cut[:, inner] >= 0).all()
    where, sparse = sparse_ray_distances(labels, rays, spacing, border=True, workers=2)
    assert np.array_equal(found.reshape(len(rays), -1)[:, where].T, sparse)
    assert len(where) == np.count_nonzero(labels)
    grid = tuple(2 for _ in shape)
    every = tuple(slice(None, None, 2) for _ in shape)
    assert np.array_equal(ray_distances(labels, rays, spacing, border=True, grid=grid), found[(slice(None), *every)])


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize(("shape", "rays", "spacing"), [((70, 150), circle(32), (1.0, 1.0)),
                                                        ((33, 31), circle(12), (0.5, 1.3)),
                                                        ((11, 19, 21), spiral(17), (2.0, 1.0, 1.0)),
                                                        ((13, 12, 70), sphere(32), (1.0, 1.0, 1.0))])
def test_small_objects_have_the_bytes_that_large_ones_would_have(shape, rays, spacing, border, monkeypatch):
    rng = np.random.default_rng([7, *shape])
    ragged = rng.integers(1, 9, shape) * (rng.random(shape) < 0.8)  # all touching, in pieces, with holes
    labels = np.where(blobs(shape, 4, 2, 6, 12) > 0, blobs(shape, 4, 2, 6, 12), ragged)
    valid = rng.random(shape) > 0.02
    found = []
    for longest in (255, 0, 60):  # all by bytes, all by bits, each by its own
        monkeypatch.setattr(ray_bytes, "_LONGEST", longest)
        parts = []
        for image, known in ((labels, None), (labels, valid), (blobs(shape, 6, 3, 2, 14), None)):
            for grid in ((1,) * len(shape), (2, 3, 2)[:len(shape)]):
                given = {"border": border, "valid": known, "grid": grid}
                parts.append(ray_distances(image, rays, spacing, **given).tobytes())
                parts += [part.tobytes() for part in sparse_ray_distances(image, rays, spacing, workers=2, **given)]
        found.append(parts)
    assert found[0] == found[1]
    assert found[2] == found[1]


@pytest.mark.parametrize("long", [250, 255, 256, 300, 1100])
def test_lengths_of_long_objects(long):
    for turn in (False, True):
        bar = np.ones((long, 3) if turn else (3, long), np.uint8)
        there, back = ray_distances(bar, circle(4), border=True)[[1, 3] if turn else [0, 2]]
        where, sparse = sparse_ray_distances(bar, circle(4), border=True)
        assert np.array_equal(sparse.T, ray_distances(bar, circle(4), border=True).reshape(4, -1)[:, where])
        ahead = (there if turn else there.T)[:, 1]
        assert ahead.tolist() == [long - 0.5 - at for at in range(long)]
        assert np.array_equal(back, there[::-1] if turn else there[:, ::-1])
    with pytest.raises(DataError, match="1 x 1 x 66000 voxels"):
        ray_distances(np.ones((1, 66000), np.uint8), circle(4))


def test_balls_have_no_bias_where_stardist_has_half_a_voxel():
    for radius in (6.0, 10.0):
        n = int(2 * radius) + 9
        centre = n // 2
        ball = ((np.indices((n,) * 3) - centre) ** 2).sum(0) <= radius**2
        equal = (3 * ball.sum() / (4 * np.pi)) ** (1 / 3)
        found = ray_distances(ball.astype(np.uint8), sphere(96))[:, centre, centre, centre]
        assert abs(found.mean() - equal) < 0.1


def test_stardist_has_the_same_distances_in_planes_but_for_its_steps():
    geometry = pytest.importorskip("stardist.geometry")
    labels = blobs((60, 64), 7, 3, 5, 9)
    theirs = np.moveaxis(geometry.star_dist(labels.astype(np.uint16), 32, mode="cpp"), -1, 0)
    ours = ray_distances(labels, circle(32), border=True)
    inside = labels > 0
    assert np.abs(ours - theirs)[:, inside].mean() < 0.35
    assert abs((ours - theirs)[:, inside].mean()) < 0.1


def polygons(seed, count, shape=(70, 74)):
    rng = np.random.default_rng(seed)
    centres = np.stack([rng.integers(8, n - 8, count) for n in shape], 1)
    base = rng.uniform(4, 9, (count, 1))
    return centres, (base * rng.uniform(0.9, 1.1, (count, 32))).astype(np.float32)


def greedy(centres, distances, threshold, rule):
    """Suppression with masks on a fine raster."""
    masks, kept = [], []
    for centre, lengths in zip(centres, distances, strict=True):
        shape = paint_shapes((440, 440), (centre * 6)[None], lengths[None] * 6, circle(32)) > 0
        if all((shape & other).sum() <= threshold * (min(shape.sum(), other.sum()) if rule == "stardist"
                                                     else (shape | other).sum()) for other in masks):
            masks.append(shape)
            kept.append(True)
        else:
            kept.append(False)
    return np.array(kept)


@pytest.mark.parametrize("rule", ["stardist", "iou"])
def test_suppression_as_masks_have_it(rule):
    centres, distances = polygons(2, 36)
    found = suppress(centres, distances, circle(32), threshold=0.35, rule=rule) >= 0
    expected = greedy(centres, distances, 0.35, rule)
    assert (found == expected).mean() > 0.94  # overlaps within a percent of the threshold may fall on either side
    with pytest.raises(OptionError, match="overlap rule"):
        suppress(centres, distances, circle(32), threshold=0.3, rule="other")


def test_one_giant_changes_nothing_for_the_others():
    centres, distances = polygons(5, 200, (400, 400))
    alone = suppress(centres, distances, circle(32), threshold=0.3)
    far = np.vstack([centres, [[5000, 5000]]])
    with_giant = suppress(far, np.vstack([distances, np.full((1, 32), 3000.0, np.float32)]), circle(32), threshold=0.3)
    assert np.array_equal(with_giant[:-1], alone)


def test_the_same_objects_as_stardist():
    nms = pytest.importorskip("stardist.nms")
    geometry = pytest.importorskip("stardist.geometry")
    matching = pytest.importorskip("stardist.matching")
    utils = pytest.importorskip("stardist.utils")
    labels = blobs((160, 170), 40, 9, 6, 11)
    rng = np.random.default_rng(0)
    probability = utils.edt_prob(labels).astype(np.float32) * rng.uniform(0.97, 1, labels.shape).astype(np.float32)
    distances = ray_distances(labels, circle(32), border=True)
    distances = np.maximum(distances * rng.uniform(0.97, 1.03, distances.shape), 1e-3).astype(np.float32)
    for every in (1, 2):
        cells = (slice(None, None, every),) * 2
        prob, dist = np.ascontiguousarray(probability[cells]), np.ascontiguousarray(distances[(slice(None), *cells)])
        points, scores, kept = nms.non_maximum_suppression(np.moveaxis(dist, 0, -1).copy(), prob, grid=(every, every),
                                                           b=2, nms_thresh=0.4, prob_thresh=0.5)
        theirs = geometry.polygons_to_label(kept, points, labels.shape, prob=scores)
        ours, table = star_labels(prob, dist, circle(32), grid=(every, every), shape=labels.shape)
        assert matching.matching(theirs, ours.astype(np.int64), 0.8).f1 >= 0.95
        assert abs(len(table["id"]) - len(points)) <= 1


@pytest.mark.parametrize(("shape", "rays"), [((160, 170), circle(32)), ((20, 48, 60), spiral(96))], ids=["2D", "3D"])
def test_the_same_touching_balls_as_stardist(shape, rays):
    """F1 at an IoU of 0.9 with stardist's own result, by its overlap rule: at least 0.995."""
    nms, geometry, matching = (pytest.importorskip(f"stardist.{name}") for name in ("nms", "geometry", "matching"))
    rng, points, labels = np.random.default_rng(4), np.indices(shape), np.zeros(shape, np.int64)
    for k, corner in enumerate(np.ndindex(*(n // 10 for n in shape)), 1):
        centre = (np.array(corner) * 10 + 5 + rng.uniform(-0.5, 0.5, len(shape))).reshape(-1, *(1,) * len(shape))
        labels[((points - centre) ** 2).sum(0) <= 4.7**2] = k
    within = boundary_distance(labels, (1.0,) * len(shape))
    prob = (within / max(1.0, within.max())).astype(np.float32) * rng.uniform(0.97, 1, shape).astype(np.float32)
    distances = ray_distances(labels, rays, border=True) * rng.uniform(0.97, 1.03, (len(rays.directions), *shape))
    distances = np.maximum(distances, 1e-3).astype(np.float32)
    theirs = np.ascontiguousarray(np.moveaxis(distances, 0, -1))
    given = {"grid": (1,) * len(shape), "b": 2, "nms_thresh": 0.4, "prob_thresh": 0.5}
    if len(shape) == 2:
        centres, scores, kept = nms.non_maximum_suppression(theirs, prob, **given)
        painted = geometry.polygons_to_label(kept, centres, shape, prob=scores)
    else:
        golden = pytest.importorskip("stardist.rays3d").Rays_GoldenSpiral(96)
        centres, scores, kept = nms.non_maximum_suppression_3d(theirs, prob, golden, verbose=False, **given)
        painted = geometry.polyhedron_to_label(kept, centres, golden, shape, prob=scores, verbose=False)
    ours, table = star_labels(prob, distances, rays, shape=shape, overlap=0.4)
    assert len(centres) >= labels.max() > 40
    assert len(table["id"]) == len(centres)
    assert matching.matching(painted, ours.astype(np.int64), 0.9).f1 >= 0.995


def test_painting_is_inside_the_polygon_and_the_last_wins():
    centres, lengths = np.array([[10, 10], [10, 16]]), np.full((2, 4), 5.4, np.float32)
    found = paint_shapes((21, 27), centres, lengths, circle(4))
    y, x = np.indices(found.shape)
    inside = [np.abs(y - cy) + np.abs(x - cx) <= 5.4 for cy, cx in centres]  # a square on its corner
    assert np.array_equal(found, np.where(inside[1], 2, np.where(inside[0], 1, 0)))
    part = paint_shapes((9, 11), centres, lengths, circle(4), start=(4, 7), workers=2)
    assert np.array_equal(part, found[4:13, 7:18])
    with pytest.raises(DataError, match="axes"):
        paint_shapes((9, 9, 9), centres, lengths, circle(4))


def test_merging_finds_what_no_point_sees_whole():
    y, x = np.mgrid[:64, :64]
    ring = np.hypot(y - 32, x - 32)
    crescent = ((ring < 24) & (ring > 14) & ~((x > 32) & (abs(y - 32) < 5))).astype(np.uint8)
    assert oracle(Star(), crescent, (1.0, 1.0))["ap50"] == 0.0
    assert oracle(Star(merge=True), crescent, (1.0, 1.0))["ap90"] == 1.0


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_merging_leaves_out_early_is_held_by_what_it_keeps(ndim):
    """Every voxel a candidate: those that are kept paint the object, however few they are."""
    grid = np.indices((40, 44) if ndim == 2 else (12, 28, 30)).astype(float)
    ring = np.hypot(grid[-2] - 14, grid[-1] - 14)
    hook = (ring < 12) & (ring > 6) & ~((grid[-1] > 14) & (abs(grid[-2] - 14) < 5))
    labels = (hook if ndim == 2 else hook & (grid[0] > 2) & (grid[0] < 9)).astype(np.uint8)
    rays = circle(32) if ndim == 2 else sphere(48)
    lengths, places = ray_distances(labels, rays, border=True), np.argwhere(labels)
    depth = boundary_distance(labels)[labels > 0]
    order = np.argsort(-depth, kind="stable")
    places, reach = places[order], lengths[:, labels > 0].T[order].astype(np.float32)
    leader = suppress(places, reach, rays, threshold=0.4, merge=True)
    kept = leader >= 0
    assert (leader[kept] == 0).all()
    assert kept.sum() < len(places) / 4
    painted = paint_shapes(labels.shape, places[kept], reach[kept], rays) > 0
    everything = paint_shapes(labels.shape, places, reach, rays) > 0
    assert (painted & everything).sum() >= 0.95 * everything.sum()  # a shape is left out where nine tenths are held


@pytest.mark.parametrize("overlap", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("probability", [0.3, 0.5, 0.7])
def test_discs_that_touch_are_never_merged(probability, overlap):
    """Distances a tenth too long or too short reach over the border, but no shape holds the centre beyond it."""
    y, x = np.indices((68, 68))
    labels = np.where(np.hypot(y % 17 - 8, x % 17 - 8) <= 8.5, 1 + y // 17 * 4 + x // 17, 0).astype(np.uint8)
    method, rng = Star(merge=True), np.random.default_rng(2)
    maps = method.ideal(method.encode(labels, (1.0, 1.0))[0])
    maps["distances"] *= rng.uniform(0.9, 1.1, maps["distances"].shape).astype(np.float32)
    found, table = decode(method, maps, {"probability": probability, "overlap": overlap})
    assert len(table["id"]) == labels.max() == 16
    for disc in range(1, 17):  # each has an object of its own
        most = np.bincount(found[labels == disc]).argmax()
        common = ((found == most) & (labels == disc)).sum()
        assert most > 0
        assert common >= 0.8 * ((found == most) | (labels == disc)).sum()


def test_scores_thresholds_and_options():
    labels = blobs((40, 44), 3, 4, 5, 7)
    method = Star(scale=6.0)
    maps = method.ideal(method.encode(labels, (1.0, 1.0))[0])
    maps["probability"] = np.where(labels == 2, 0.6, 0.95).astype(np.float32) * maps["probability"]
    _, table = decode(method, maps)
    assert sorted(table["score"].tolist()) == pytest.approx([0.6, 0.95, 0.95], abs=1e-3)
    assert len(decode(method, maps, {"probability": 0.7})[1]["id"]) == 2
    assert len(decode(method, maps, {"min_size": 1e6})[1]["id"]) == 0
    for wrong in ({"n_rays": 6}, {"scale": 0.0}, {"rule": "no"}):
        with pytest.raises(OptionError):
            Star(**wrong)
