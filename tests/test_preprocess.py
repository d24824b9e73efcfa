"""Samples from cases: aligned, in the plan's orientation, and a store that trusts nothing it finds."""

import nibabel as nib
import numpy as np
import pytest
from small_sets import tiny_plan, write_instances, write_volumes

from biosegkit.cases import scan
from biosegkit.errors import DataError
from biosegkit.grid import Grid, Turn
from biosegkit.image import Image, Labels
from biosegkit.plan.schema import Channel
from biosegkit.preprocess import load_or_make, make_sample, sample_key


def semantic(ndim=3, **options):
    return tiny_plan(ndim, task="semantic", unit="mm", patch=(12, 12, 12)[:ndim], **options)


def with_preprocessing(plan, **changes):
    return plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update=changes)})


def equal(a, b):
    pairs = [(a.image, b.image), (a.labels, b.labels), *((a.foreground[k], b.foreground[k]) for k in a.foreground)]
    assert a.foreground.keys() == b.foreground.keys()
    assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
    assert (a.valid is None) == (b.valid is None)


def bright(shape=(10, 12, 8), spacing=(2.0, 1.0, 1.0), turn=None):
    """Labels, and an image that is 100 exactly where they are."""
    labels = np.zeros(shape, np.uint8)
    labels[2:7, 3:9, 2:6] = 3
    grid = Grid.regular(shape, spacing, "mm")
    image, table = Image(100.0 * (labels > 0)[None], grid), Labels.from_values(labels, grid, "semantic")
    return (image.turned(turn), table.turned(turn)) if turn else (image, table)


# --- one sample ------------------------------------------------------------------------------------------------------


def test_image_and_labels_stay_aligned_when_resampled():
    plan = semantic()
    sample = make_sample(*bright(), plan, "a")
    # 10 slices of 2 mm become 20 of 1 mm
    assert sample.labels.shape == sample.image.shape[1:] == (20, 12, 8)
    inside, outside = sample.labels > 0, sample.labels == 0
    middle = (sample.image.max() + sample.image.min()) / 2
    agree = ((sample.image[0] > middle) == inside).mean()
    assert agree > 0.97
    assert inside.any()
    assert outside.any()
    assert set(np.unique(sample.labels)) == {0, 1}


@pytest.mark.parametrize("turn", [Turn((0, 1, 2), (2,)), Turn((2, 1, 0), (0, 1)), Turn((1, 2, 0), (0, 1, 2))])
def test_G5_any_storage_gives_the_same_sample(turn):
    plan = semantic()
    equal(make_sample(*bright(), plan, "a"), make_sample(*bright(turn=turn), plan, "a"))


def test_L11_resampled_labels_are_labels_of_the_input():
    shape = (6, 9, 9)
    labels = np.random.default_rng(0).choice([0, 3, 7], shape).astype(np.uint8)
    grid = Grid.regular(shape, (2.6, 0.7, 0.7), "mm")
    sample = make_sample(Image(labels[None].astype(np.float32), grid), Labels.from_values(labels, grid, "semantic"),
                         semantic(), "a")
    assert set(np.unique(sample.labels)) <= {0, 1, 2}


def test_a_crop_is_of_image_labels_and_ignore_alike():
    plan = with_preprocessing(semantic(), crop_to_nonzero=True)
    grid = Grid.regular((8, 9, 10), 1.0, "mm")
    image = np.zeros((1, 8, 9, 10), np.float32)
    image[0, 2:6, 3:8, 1:9] = np.random.default_rng(0).uniform(1, 2, (4, 5, 8))
    values = np.where(image[0] > 1.5, 3, 0)
    values[2:6, 3:8, 1] = 99
    sample = make_sample(Image(image, grid), Labels.from_values(values, grid, "semantic", ignore_value=99), plan, "a")
    assert sample.image.shape == (1, 4, 5, 8)
    assert np.array_equal(sample.labels, (image[0, 2:6, 3:8, 1:9] > 1.5) & sample.valid)
    assert not sample.valid[:, :, 0].any()
    assert sample.valid[:, :, 1:].all()
    assert all(sample.valid[tuple(p.T)].all() for p in sample.foreground.values())


def test_normalisation_is_that_of_the_whole_image():
    sample = make_sample(*bright(spacing=(1.0, 1.0, 1.0)), semantic(), "a")
    assert sample.image.mean() == pytest.approx(0, abs=1e-4)
    assert sample.image.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_V1_voxels_that_are_no_numbers_are_refused(bad):
    image, labels = bright()
    array = image.array.copy()
    array[0, 1, 1, 1] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        make_sample(Image(array, image.grid), labels, semantic(), "a")


def test_L5_a_value_the_plan_does_not_know_is_refused():
    image, labels = bright()
    with pytest.raises(DataError, match=r"label values \[3\]"):
        make_sample(image, labels, semantic(values=(0, 7)), "a")


# --- the store -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    return write_volumes(tmp_path / "data", cases=2)


def names(store):
    return sorted(p.name for p in store.iterdir())


def test_F9_a_stored_sample_is_the_one_that_was_made(dataset, tmp_path, monkeypatch):
    plan, store, seen = semantic(), tmp_path / "store", []
    made = load_or_make(dataset, list(dataset), plan, store, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]
    monkeypatch.setattr("biosegkit.preprocess.make_sample", lambda *_: pytest.fail("made again"))
    for a, b in zip(made, load_or_make(dataset, list(dataset), plan, store), strict=True):
        equal(a, b)
        assert a.case == b.case


@pytest.mark.parametrize("file", ["image.npy", "labels.npy", "sample.json", "foreground-1.npy"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_F9_a_damaged_sample_is_made_anew(dataset, tmp_path, file, damage):
    plan, store = semantic(), tmp_path / "store"
    case = [dataset[0]]
    made = load_or_make(dataset, case, plan, store)[0]
    path = store / sample_key(dataset[0], plan, dataset.about) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    broken = {"cut": bytes(data[: len(data) // 2]), "flip": bytes(data), "empty": b"", "gone": None}[damage]
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    equal(load_or_make(dataset, case, plan, store)[0], made)
    # and the store is whole again
    equal(load_or_make(dataset, case, plan, store)[0], made)


def test_F9_another_plan_is_another_sample(dataset, tmp_path):
    plan, store = semantic(), tmp_path / "store"
    load_or_make(dataset, [dataset[0]], plan, store)
    first = names(store)
    load_or_make(dataset, [dataset[0]], with_preprocessing(plan, channels=(Channel(name="c0", scheme="none"),)), store)
    assert len(names(store)) == 2
    assert set(first) < set(names(store))
    # what changes no voxel keeps the key
    same = plan.model_copy(update={"training": plan.training.model_copy(update={"steps": 99})})
    assert sample_key(dataset[0], same, dataset.about) == sample_key(dataset[0], plan, dataset.about)


def test_F9_another_file_is_another_sample(dataset, tmp_path):
    plan = semantic()
    before = sample_key(dataset[0], plan, dataset.about)
    path = dataset[0].images[0]
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    assert sample_key(dataset[0], plan, dataset.about) != before


def test_F9_another_reading_of_the_same_file_is_another_sample(tmp_path):
    """Spacing, mapping and ignore label of the description change the arrays, not the files."""
    from biosegkit.description import Description

    write_instances(tmp_path / "data", cases=1)
    plan = tiny_plan()
    for about in ({}, {"map": {"2": 0}}, {"ignore_label": 1}, {"spacing": [2.0, 1.0], "unit": "um"}):
        found = scan(tmp_path / "data", describe=Description.from_data(about))
        samples = load_or_make(found, list(found), plan, tmp_path / "store")
        fresh = make_sample(*found.load(found[0], "instance"), plan, found[0].id)
        assert np.array_equal(samples[0].labels, fresh.labels)
    assert len(names(tmp_path / "store")) == 4
