"""Labels: canonical inside, the user's values outside; images that are what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biosegkit.errors import DataError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image, Labels, smallest_unsigned

GRID = Grid.regular((2, 3))
IDS = st.integers(0, 2**63 - 1)


def of(values, **options):
    array = np.asarray(values)
    return Labels.from_values(array, Grid.regular(array.shape), options.pop("task", "instance"), **options)


# --- labels ----------------------------------------------------------------------------------------------------------


@given(st.lists(IDS, min_size=6, max_size=6), st.sampled_from([np.int64, np.uint64]))
def test_L1_ids_of_any_size_are_sequential_inside_and_themselves_outside(ids, kind):
    array = np.array(ids, kind).reshape(2, 3)
    labels = Labels.from_values(array, GRID, "instance")
    assert labels.array.dtype.kind == "u"
    assert set(np.unique(labels.array)) <= set(range(labels.count + 1))
    assert labels.count == len(set(ids) - {0})
    assert labels.restored().astype(object).tolist() == array.astype(object).tolist()
    assert np.array_equal(labels.array == 0, array == 0)


@pytest.mark.parametrize(("top", "kind"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32), (2**32, np.uint64)])
def test_L1_restored_takes_the_smallest_type(top, kind):
    assert of([[0, top]]).restored().dtype == kind
    assert smallest_unsigned(top) == kind


@pytest.mark.parametrize("array", [np.array([[0, 2**63]], np.uint64), np.array([[0.0, 1e19]])])
def test_L1_an_id_no_table_can_hold_is_refused(array):
    with pytest.raises(DataError, match=r"below 2\*\*63"):
        of(array)


def test_L1_a_huge_id_without_background_keeps_every_digit():
    # int64 zeros beside uint64 ids would pass through float64 and lose the last digits
    ids = np.array([[2**53 + 1, 2**53 + 3]], np.uint64)
    assert of(ids).values.tolist() == [0, 2**53 + 1, 2**53 + 3]


@given(st.integers(-3, 300), st.lists(st.integers(0, 300), min_size=6, max_size=6))
def test_L9_ignored_voxels_come_back_with_their_value(ignored, ids):
    array = np.array([ignored, *ids[1:]], np.int32).reshape(2, 3)
    labels = Labels.from_values(array, GRID, "instance", ignore_value=ignored)
    assert np.array_equal(labels.ignore, array == ignored)
    assert not labels.array[labels.ignore].any()
    assert ignored == 0 or ignored not in labels.values[1:]
    assert np.array_equal(labels.restored(), array)


def test_L3_floats_near_whole_numbers_are_whole_and_others_are_refused():
    assert of(np.array([[0.0005, 2.9995]])).values.tolist() == [0, 3]
    with pytest.raises(DataError, match=r"1 fractional label value, first 0\.002 at \(0, 1\)"):
        of(np.array([[0.0, 0.002]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.5])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_L3_no_number_is_no_label(bad):
    with pytest.raises(DataError, match="fractional"):
        of(np.array([[0.0, bad]]))


def test_L4_negative_ids_are_refused_with_a_mapping_to_try():
    with pytest.raises(DataError, match="--map -1=0"):
        of([[-1, 3]])
    assert of([[-1, 3]], mapping={-1: 0}).values.tolist() == [0, 3]


def test_L5_a_mapping_exchanges_all_at_once():
    assert of([[1, 2, 255]], mapping={1: 2, 2: 1, 255: 7}).restored().tolist() == [[2, 1, 7]]


def test_L5_a_value_the_table_does_not_know_is_refused():
    with pytest.raises(DataError, match=r"label values \[9\].*one of \[0, 3, 7\].*--map 9"):
        of([[0, 9]], task="semantic").as_classes((0, 3, 7))


def test_L6_gaps_in_class_numbers_take_the_place_in_the_table():
    classes = of([[0, 7, 7], [3, 0, 7]], task="semantic").as_classes((0, 3, 5, 7))
    assert classes.array.tolist() == [[0, 3, 3], [1, 0, 3]]
    assert classes.restored().tolist() == [[0, 7, 7], [3, 0, 7]]


def test_a_value_that_is_only_listed_does_not_trouble_the_table():
    labels = Labels(np.zeros((1, 2), np.uint8), Grid.regular((1, 2)), np.array([0, 99]), "semantic")
    assert labels.as_classes((0, 3)).count == 1


def test_L7_no_foreground_is_accepted():
    empty = of(np.zeros((3, 3), np.uint8))
    assert (empty.count, empty.restored().max()) == (0, 0)


@given(st.permutations(range(2)), st.booleans())
def test_G5_turned_labels_keep_ids_and_ignore_together(perm, flip):
    turn = Turn(tuple(perm), (0,) if flip else ())
    array = np.array([[0, 5, 9], [2, 9, 5]])
    turned = of(array, ignore_value=9).turned(turn)
    assert np.array_equal(turned.restored(), turn.apply(array))
    assert turned.grid.shape == turned.array.shape == turned.ignore.shape


def test_labels_that_are_not_canonical_or_of_another_shape_are_refused():
    with pytest.raises(DataError, match="type int64"):
        Labels(np.zeros((2, 3), np.int64), GRID, np.array([0]), "instance")
    with pytest.raises(DataError, match=r"\(3, 2\)"):
        Labels(np.zeros((3, 2), np.uint8), GRID, np.array([0]), "instance")
    with pytest.raises(DataError, match="complex"):
        of(np.zeros((2, 2), complex))


def test_bool_masks_are_labels():
    assert of(np.array([[True, False]]), task="semantic").restored().tolist() == [[1, 0]]


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("array", "told"), [
    (np.zeros((1, 3, 2)), r"shape \(1, 3, 2\)"), (np.zeros((2, 3)), "shape"),
    (np.zeros((1, 2, 3), complex), "complex128"), (np.zeros((1, 2, 3), "U1"), "type <U1"),
    (np.zeros((1, 2, 3), "V4"), "type"),
])
def test_V8_an_image_that_is_none_is_refused(array, told):
    with pytest.raises(DataError, match=told):
        Image(array, GRID, source="a.tif")


def test_channels_have_names_and_their_number_is_checked():
    image = Image(np.zeros((2, 2, 3)), GRID)
    assert image.channels == ("channel 0", "channel 1")
    with pytest.raises(DataError, match="1 channel name for 2 channels"):
        Image(np.zeros((2, 2, 3)), GRID, ("dapi",))


def test_turned_images_keep_their_channels_in_front():
    array = np.arange(12).reshape(2, 2, 3)
    turned = Image(array, GRID, notes=("a",)).turned(Turn((1, 0))).noted("b")
    assert np.array_equal(turned.array, array.transpose(0, 2, 1))
    assert turned.grid.shape == (3, 2)
    assert turned.notes == ("a", "b")
