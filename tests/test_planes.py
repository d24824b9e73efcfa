"""2D models on stacks: plane by plane, and objects that neighbouring planes share."""

import numpy as np
import pytest
from stub_models import Context, Discs, image, segmenter, stub_plan

import biosegkit.segmenter
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.planes import joined


def stack_of_discs(places, shape=(3, 16, 16)):
    values = np.zeros((1, *shape), np.float32)
    yy, xx = np.mgrid[:shape[1], :shape[2]]
    for z, y, x in places:
        values[0, z] = np.maximum(values[0, z], np.clip(1 - np.hypot(yy - y, xx - x) / 4, 0, 1))
    return Image(values, Grid.regular(shape))


def test_a_2d_model_takes_a_stack_plane_by_plane():
    plan, im = stub_plan(2, step=(3, 5)), image((5, 20, 13))
    net = Context(2)
    whole = segmenter(net, plan, batch=7).predict(im, maps=True)
    for z in range(5):
        plane = Image(im.array[:, z], Grid.regular((20, 13), 1.0, "mm"))
        single = segmenter(net, plan).predict(plane, maps=True)
        np.testing.assert_allclose(whole.maps["classes"][:, z], single.maps["classes"], atol=1e-6)
        np.testing.assert_array_equal(whole.labels.array[z], single.labels.array)


def test_a_2d_model_of_stacks_takes_a_single_plane():
    plan, im = stub_plan(2, transpose=(0, 2, 1)), image((5, 20, 13))
    stack = segmenter(Context(2), plan).predict(im)
    plane = segmenter(Context(2), plan).predict(Image(im.array[:, 3], Grid.regular((20, 13), 1.0, "mm")))
    np.testing.assert_array_equal(plane.labels.array, stack.labels.array[3])


def test_objects_of_a_stack_get_ids_that_go_on_from_plane_to_plane():
    im = stack_of_discs([(0, 5, 5), (0, 11, 11), (2, 8, 8)])
    found = segmenter(Discs(), stub_plan(2, instance=True)).predict(im)
    assert found.objects["id"].tolist() == [1, 2, 3]
    assert [np.unique(p).tolist() for p in found.labels.array] == [[0, 1, 2], [0], [0, 3]]
    assert found.objects["bbox_start_z"].tolist() == [0, 0, 2]
    assert found.objects["centroid_z"].tolist() == [0.0, 0.0, 2.0]


def test_objects_of_neighbouring_planes_that_overlap_are_one():
    im = stack_of_discs([(0, 5, 5), (0, 11, 11), (1, 5, 6), (2, 5, 6), (2, 11, 4)])
    found = segmenter(Discs(), stub_plan(2, instance=True)).predict(im)
    assert found.labels.array[:, 5, 5].tolist() == [1, 1, 1]
    assert found.labels.array[:, 11, 11].tolist() == [2, 0, 0]
    assert found.labels.array[:, 11, 4].tolist() == [0, 0, 3]
    objects = {name: column.tolist() for name, column in found.objects.items()}
    assert (objects["id"], objects["bbox_start_z"], objects["bbox_stop_z"]) == ([1, 2, 3], [0, 0, 2], [3, 1, 3])
    assert objects["area"] == np.bincount(found.labels.array.ravel())[1:].tolist()
    inside = np.argwhere(found.labels.array == 1).mean(0)
    assert [objects[f"centroid_{a}"][0] for a in "zyx"] == pytest.approx(inside.tolist())
    assert any("plane by plane" in note for note in found.notes)


@pytest.mark.parametrize("block", [1 << 4, 1 << 9])
def test_X3_blocks_change_no_object_that_planes_share(monkeypatch, block):
    im = stack_of_discs([(z, 5 + z % 2, 5) for z in range(7)] + [(z, 11, 11) for z in (1, 2, 4)], (7, 16, 16))
    model = segmenter(Discs(), stub_plan(2, instance=True))
    whole = model.predict(im)
    monkeypatch.setitem(biosegkit.segmenter._BLOCK, "instance", block)
    cut = model.predict(im)
    assert whole.labels.count == 3
    np.testing.assert_array_equal(cut.labels.array, whole.labels.array)
    assert all(np.array_equal(cut.objects[name], column) for name, column in whole.objects.items())


def test_two_halves_of_one_object_do_not_both_continue_it():
    before, plane = np.array([[4] * 6]), np.array([[1, 1, 1, 2, 2, 2]])
    assert joined(before, plane, 4).tolist() == [0, 4, 5]  # the same IoU: the first
    assert joined(plane, np.array([[1] * 6]), 2).tolist() == [0, 1]
    assert joined(np.zeros((2, 2), int), np.zeros((2, 2), int), 3).tolist() == [0]
