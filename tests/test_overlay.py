"""Overlays: outlines drawn by hand, the slice choice on volumes where the answer is known, PNG round trip."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow

from biosegkit.overlay import (
    BOTH,
    PREDICTED,
    TRUTH,
    Overlay,
    compose,
    informative_slice,
    overlay_of,
    png_bytes,
    to_rgb,
    write_png,
)


def test_outlines_of_truth_prediction_and_both_by_hand():
    truth, predicted = np.zeros((2, 5, 6), np.uint8)
    truth[1:4, 0:3] = 1
    predicted[1:4, 0:4] = 1
    picture = compose(Overlay("", np.zeros((5, 6)), truth, predicted), width=6)
    mark = {(0, 0, 0): ".", TRUTH: "t", PREDICTED: "p", BOTH: "b"}
    rows = ["".join(mark[tuple(int(v) for v in pixel)] for pixel in row) for row in picture]
    # the left side lies on the border of the picture: nothing differs there, so no line
    assert rows == ["......", "bbbp..", "..tp..", "bbbp..", "......"]


def test_touching_objects_keep_a_line_each():
    labels = np.array([[1, 1, 2, 2]] * 3, np.uint16)
    picture = compose(Overlay("", np.zeros((3, 4)), None, labels), width=4)
    assert [tuple(int(v) for v in pixel) for pixel in picture[1]] == [(0, 0, 0), PREDICTED, PREDICTED, (0, 0, 0)]


def test_lines_of_large_pictures_are_as_thick_as_they_can_be_seen():
    labels = np.zeros((480, 480), np.uint8)
    labels[100:300, 100:300] = 1
    picture = compose(Overlay("", np.zeros((480, 480)), None, labels), width=480)
    line = (picture[200] == PREDICTED).all(-1)
    assert np.flatnonzero(line).tolist() == [100, 101, 298, 299]


def test_small_pictures_grow_by_whole_factors_and_large_ones_stay():
    assert compose(Overlay("", np.zeros((40, 30)), None, None), 360).shape == (360, 270, 3)
    assert compose(Overlay("", np.zeros((500, 30)), None, None), 360).shape == (500, 30, 3)


def test_the_slice_with_most_structures_wins_over_the_largest_single_area():
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[1] = 1  # one area of 100: 10
    labels[2, :5], labels[2, 5:] = 1, 2  # two of 50: 14.1
    assert informative_slice(np.zeros((4, 10, 10)), labels) == 2


def test_without_labels_the_slice_with_most_contrast_wins():
    image = np.zeros((3, 4, 4))
    image[2, ::2] = 9
    assert informative_slice(image, np.zeros((3, 4, 4), np.uint8)) == 2


def test_volumes_are_cut_across_the_coarsest_axis():
    image, labels = np.zeros((1, 6, 7, 8)), np.zeros((6, 7, 8), np.uint8)
    labels[:, 5, :] = 1
    overlay = overlay_of("case", image, labels, labels, 0.5, spacing=(1.0, 4.0, 1.0))
    assert overlay.title == "case, slice 6 of 7"
    assert overlay.image.shape == (1, 6, 8)
    assert overlay.truth.tolist() == [[True] * 8] * 6


def test_colours_of_one_two_and_many_channels():
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    grey = to_rgb(ramp)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert (grey[0, 0, 0], grey[-1, -1, 0]) == (0, 225)
    two = to_rgb(np.stack([ramp, 1 - ramp]))
    assert two[0, 0].tolist() == [0, 225, 0]
    assert (to_rgb(np.stack([ramp] * 5)) == grey).all()


def test_constant_and_non_finite_planes_do_not_fail():
    assert not to_rgb(np.full((4, 4), 7.0)).any()
    assert to_rgb(np.array([[np.nan, 1.0], [np.inf, 0.0]])).shape == (2, 2, 3)


def test_png_round_trip(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    assert (np.asarray(Pillow.open(io.BytesIO(png_bytes(picture)))) == picture).all()
    write_png(tmp_path / "a.png", picture)
    assert (np.asarray(Pillow.open(tmp_path / "a.png")) == picture).all()
