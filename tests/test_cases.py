"""cases: every form of a data set, exact pairing, groups and splits; truth is written out by hand."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from biosegkit.cases import Case, Description, holdout, scan, split_folds, split_notes, trainable
from biosegkit.errors import BiosegError, DataError, FileError, OptionError
from biosegkit.layouts import stem


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def ids(dataset) -> list[str]:
    return [c.id for c in dataset]


def test_folder_pairs_by_stem_whatever_the_ending(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.ome.tif", "labels/a.png", "labels/b.tif", "images/notes.txt")
    found = scan(tmp_path)
    assert ids(found) == ["a", "b"]
    assert [c.labels.name for c in found] == ["a.png", "b.tif"]
    assert [c.group for c in found] == ["a", "b"]


def test_deeper_folders_keep_their_relative_path(tmp_path):
    touch(tmp_path, "images/x/1.tif", "images/y/1.tif", "labels/y/1.tif", "labels/x/1.tif")
    found = scan(tmp_path)
    assert ids(found) == ["x/1", "y/1"]
    assert all(c.labels.parent.name == c.images[0].parent.name for c in found)


def test_a_folder_of_images_alone_has_no_labels(tmp_path):
    touch(tmp_path, "images/a.tif")
    assert scan(tmp_path)[0].labels is None


@pytest.mark.parametrize(("files", "below"), [
    (["train/images/a.tif", "train/labels/a.tif", "test/images/b.tif", "notes/a.txt"], ["test", "train"]),
    (["Task04/imagesTr/a.nii.gz", "Task04/labelsTr/a.nii.gz"], ["Task04"])])
def test_the_remedy_for_a_folder_of_data_sets_names_them(tmp_path, files, below):
    with pytest.raises(DataError, match="no data set") as caught:
        scan(touch(tmp_path, *files))
    assert ", ".join(str(tmp_path / name) for name in below) in caught.value.remedy
    assert "notes" not in caught.value.remedy
    assert str(tmp_path / below[0]) in str(caught.value)
    assert len(scan(tmp_path / below[0])) == 1


def test_of_many_data_sets_below_the_remedy_names_a_few(tmp_path):
    with pytest.raises(DataError) as caught:
        scan(touch(tmp_path, *(f"p{k}/images/a.tif" for k in range(7))))
    assert [f"p{k}" for k in range(7) if str(tmp_path / f"p{k}") in caught.value.remedy] == [
        "p0", "p1", "p2", "p3", "p4"]
    assert "…" in caught.value.remedy


def test_masks_folder_per_image(tmp_path):
    touch(tmp_path, "images/a.png", "labels/a/1.png", "labels/a/2.png")
    assert scan(tmp_path)[0].labels == tmp_path / "labels/a"


def test_case_folders_with_images_and_masks(tmp_path):
    touch(tmp_path, "c1/images/c1.png", "c1/masks/1.png", "c1/masks/2.png", "c2/images/c2.png", "c2/masks/1.png")
    assert [(c.id, c.labels.name) for c in scan(tmp_path)] == [("c1", "masks"), ("c2", "masks")]


def test_per_object_masks_become_objects(tmp_path):
    for name, rows in (("images/a", slice(0, 6)), ("labels/a/1", slice(0, 2)), ("labels/a/2", slice(4, 6))):
        path = tmp_path / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((6, 6), np.uint8)
        array[rows] = 255
        tifffile.imwrite(path, array)
    found = scan(tmp_path)
    _, labels = found.load(found[0], "instance")
    assert labels.array[:, 0].tolist() == [1, 1, 0, 0, 2, 2]


def nnunet(tmp_path, **about) -> Path:
    touch(tmp_path, "imagesTr/p1_0000.nii.gz", "imagesTr/p1_0001.nii.gz", "imagesTr/p11_0000.nii.gz",
          "imagesTr/p11_0001.nii.gz", "labelsTr/p1.nii.gz", "labelsTr/p11.nii.gz")
    data = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 1, "ignore": 2},
            "numTraining": 2, "file_ending": ".nii.gz", **about}
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    return tmp_path


def test_nnunet_folder(tmp_path):
    found = scan(nnunet(tmp_path))
    assert ids(found) == ["p1", "p11"]
    assert [p.name for p in found[0].images] == ["p1_0000.nii.gz", "p1_0001.nii.gz"]
    assert found.about.channel_names == ("T1", "T2")
    assert found.about.ignore_value == 2
    assert found.about.classes == (("background", 0), ("tumour", 1))
    assert found.notes == ()


def test_nnunet_folder_says_when_cases_got_lost(tmp_path):
    assert "numTraining 3" in scan(nnunet(tmp_path, numTraining=3)).notes[0]


def test_decathlon_folder_without_channel_numbers(tmp_path):
    touch(tmp_path, "imagesTr/h_001.nii.gz", "labelsTr/h_001.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({
        "name": "H", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}, "numTraining": 1,
        "training": [{"image": "./imagesTr/h_001.nii.gz"}], "tensorImageSize": "3D"}))
    found = scan(tmp_path)
    assert ids(found) == ["h_001"]
    assert found.about.classes == (("background", 0), ("Anterior", 1))
    assert found.about.channel_names == ("MRI",)


def test_two_globs_pair_what_the_wildcards_stand_for(tmp_path):
    touch(tmp_path, "raw/s1_im.tif", "raw/s2_im.tif", "raw/other.tif", "seg/s2_mask.tif", "seg/s1_mask.tif")
    found = scan(f"{tmp_path}/raw/*_im.tif::{tmp_path}/seg/*_mask.tif")
    assert [(c.id, c.labels.name) for c in found] == [("s1", "s1_mask.tif"), ("s2", "s2_mask.tif")]


def test_a_double_star_crosses_folders_and_a_star_does_not(tmp_path):
    touch(tmp_path, "a/i/1.tif", "a/b/i/1.tif", "a/l/1.tif", "a/b/l/1.tif")
    found = scan(f"{tmp_path}/**/i/*.tif::{tmp_path}/**/l/*.tif")
    assert ids(found) == ["a/1", "a/b/1"]
    assert ids(scan(f"{tmp_path}/*/i/*.tif::{tmp_path}/*/l/*.tif")) == ["a/1"]


def table(tmp_path, text: str) -> Path:
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8-sig")
    return tmp_path / "cases.csv"


def test_csv_with_groups_splits_and_channels(tmp_path):
    touch(tmp_path, "a0.tif", "a1.tif", "b0.tif", "b1.tif", "la.tif", "lb.tif")
    path = table(tmp_path, "image,label,case,group,split,stain\na0.tif;a1.tif,la.tif,A,p1,train,x\n"
                           "b0.tif; b1.tif,lb.tif,B,p2,test,y\n\n")
    found = scan(path)
    assert found[0] == Case("A", "p1", (tmp_path / "a0.tif", tmp_path / "a1.tif"), tmp_path / "la.tif", "train",
                            {"image": "a0.tif;a1.tif", "label": "la.tif", "case": "A", "group": "p1",
                             "split": "train", "stain": "x"})
    assert ids(scan(path, where={"stain": "y"})) == ["B"]
    assert ids(scan(path, where={"split": ["train", "test"], "group": "p1"})) == ["A"]


def test_csv_with_numbered_channel_columns(tmp_path):
    touch(tmp_path, *(f"c{i}.tif" for i in range(11)), "l.tif")
    head, row = ",".join(f"image_{i}" for i in range(11)), ",".join(f"c{i}.tif" for i in range(11))
    found = scan(table(tmp_path, f"{head},label\n{row},l.tif\n"))
    assert [p.name for p in found[0].images] == [f"c{i}.tif" for i in range(11)]


def test_where_lists_columns_and_values(tmp_path):
    touch(tmp_path, "a.tif", "b.tif")
    path = table(tmp_path, "image,label,stain\na.tif,a.tif,H&E\nb.tif,b.tif,PAS\n")
    with pytest.raises(DataError, match=r"no column stian.*case, group, image, label, stain"):
        scan(path, where={"stian": "x"})
    with pytest.raises(DataError, match=r"no case with stain=HE.*H&E, PAS"):
        scan(path, where={"stain": "HE"})


@pytest.mark.parametrize(("text", "words"), [
    ("label\nx\n", "column image"), ("image,image\nx,y\n", "different columns"), ("image,label\n", "0 rows"),
    ("image,label\na.tif,b.tif,c.tif\n", "rows 1"), ("image,label\n,a.tif\n", "no image"),
])
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, words):
    touch(tmp_path, "a.tif", "b.tif", "c.tif")
    with pytest.raises(DataError, match=words):
        scan(table(tmp_path, text))


def test_group_expression(tmp_path):
    touch(tmp_path, *(f"{d}/p{p}_s{s}.tif" for d in ("images", "labels") for p in (1, 2) for s in (1, 2)))
    found = scan(tmp_path, describe=Description(group=r"(p\d+)_"))
    assert [c.group for c in found] == ["p1", "p1", "p2", "p2"]
    with pytest.raises(DataError, match="p1_s1, p1_s2, p2_s1, p2_s2"):
        scan(tmp_path, describe=Description(group="q"))


def test_a_row_can_give_its_own_spacing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8))
    path = table(tmp_path, "image,label,pixel_size,unit\na.tif,a.tif,0.25,um\n")
    found = scan(path)
    assert found.load_image(found[0]).grid.spacing == (0.25, 0.25)
    assert found.load_image(found[0]).grid.unit == "um"
    broken = scan(table(tmp_path, "image,label,pixel_size\na.tif,a.tif,wide\n"))
    with pytest.raises(DataError, match="row of case a"):
        broken.load_image(broken[0])


@pytest.mark.parametrize("source", ["nowhere", "a::b::c", "x::", "nothing/*.tif::nothing/*.tif"])
def test_sources_that_do_not_exist(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BiosegError):
        scan(source)


def test_a_single_image_is_no_data_set(tmp_path):
    touch(tmp_path, "a.tif")
    with pytest.raises(DataError, match="CSV"):
        scan(tmp_path / "a.tif")
    with pytest.raises(DataError, match="images/ and labels/"):
        scan(tmp_path)


def test_dataset_is_a_sequence(tmp_path):
    touch(tmp_path, *(f"{d}/{n}.tif" for d in ("images", "labels") for n in "abc"))
    found = scan(tmp_path)
    assert (len(found), ids(found[1:]), ids(found.select(["c", "a"])), found.case("b").id) == (3, ["b", "c"],
                                                                                            ["c", "a"], "b")
    with pytest.raises(DataError, match=r"no case 'z'.*a, b, c"):
        found.select(["z"])


@pytest.mark.parametrize(("data", "words"), [
    ({"chanel_names": ["CT"]}, "chanel_names"), ({"channel_names": {"0": "a", "2": "b"}}, "without gaps"),
    ({"labels": {"background": 1}}, "expected 0"), ({"labels": {"a": 1, "b": 1}}, "share a value"),
    ({"labels": {"ignore": 3}, "ignore": 4}, "one value"), ({"group": "("}, "regular expression"),
    ({"task": "panoptic"}, "task"),
])
def test_description_refuses_what_it_does_not_understand(data, words, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=words):
        Description.read(tmp_path / "dataset.json")


@pytest.mark.parametrize(("order", "message"), [([1], "one value per region"), ([1, 2, 3], "one value per region"),
                                                ([1, 7], "in no region")])
def test_painting_orders_that_do_not_fit_are_refused(order, message):
    with pytest.raises(DataError, match=message):
        Description.from_data({"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 9},
                               "regions_class_order": order})


def test_description_regions_and_options_override():
    about = Description.from_data({"labels": {"background": 0, "whole": [1, 2], "core": 2},
                                   "regions_class_order": [1, 2], "spacing": "2, 0.5,0.5", "map": {"255": 1}})
    assert about.regions == (("whole", (1, 2)), ("core", (2,)))
    assert about.known_values == {0, 1, 2}
    assert Description(labels={"a": 1}).classes == (("background", 0), ("a", 1))
    assert about.spacing == (2, 0.5, 0.5)
    changed = about.merged(Description(unit="um"))
    assert (changed.unit, changed.mapping, changed.spacing) == ("um", {255: 1}, (2, 0.5, 0.5))
    assert Description(axes="czyx").label_options().axes == "zyx"
    assert Description(channel_names=("CT",)).read_options().channel_names == ("CT",)


@pytest.mark.parametrize(("name", "expected"), [
    ("a.nii.gz", "a"), ("a.b.ome.tif", "a.b"), (".tif", ".tif"), ("x.czi", "x"), ("plain", "plain"),
    ("e\u0301.png", "\u00e9"),
])
def test_stem(name, expected):
    assert stem(Path(name)) == expected


def cases_of(sizes: list[int]) -> list[Case]:
    return [Case(f"g{g:02d}c{i}", f"g{g:02d}", ()) for g, n in enumerate(sizes) for i in range(n)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.integers(2, 6), st.integers(0, 99))
def test_folds_partition_the_cases_and_never_cut_a_group(sizes, folds, seed):
    cases = cases_of(sizes)
    found = split_folds(cases, folds, seed)
    assert len(found) == min(folds, len(sizes))
    group = {c.id: c.group for c in cases}
    held = [i for _, validation in found for i in validation]
    assert sorted(held) == sorted(group)
    for train, validation in found:
        assert validation
        assert not {group[i] for i in train} & {group[i] for i in validation}
        assert sorted((*train, *validation)) == sorted(group)
    loads = [len(v) for _, v in found]
    assert max(loads) - min(loads) <= max(sizes)
    assert found == split_folds(cases[::-1], folds, seed)


def test_large_groups_do_not_unbalance_the_folds():
    assert [len(v) for _, v in split_folds(cases_of([4, 1, 1, 1, 1]), 2, 0)] == [4, 4]
    assert sorted(len(v) for _, v in split_folds(cases_of([5, 3, 2, 2, 1, 1, 1]), 3, 0)) == [5, 5, 5]


def test_folds_of_single_cases_are_as_even_as_can_be():
    assert sorted(len(v) for _, v in split_folds(cases_of([1] * 13), 5, 0)) == [2, 2, 3, 3, 3]
    assert split_folds(cases_of([1] * 13), 5, 0) != split_folds(cases_of([1] * 13), 5, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.floats(0.01, 0.9), st.integers(0, 99))
def test_holdout_never_cuts_a_group_and_is_near_the_fraction(sizes, fraction, seed):
    cases = cases_of(sizes)
    train, validation = holdout(cases, fraction, seed)
    group = {c.id: c.group for c in cases}
    assert train
    assert validation
    assert not {group[i] for i in train} & {group[i] for i in validation}
    assert sorted((*train, *validation)) == sorted(group)
    assert len(validation) <= max(fraction * len(cases) + max(sizes) / 2, min(sizes))


@pytest.mark.parametrize("seed", range(6))
def test_of_two_patients_the_one_with_more_images_trains(seed):
    cases = [Case(f"{g}{i}", g, ()) for g, n in (("a", 5), ("b", 2)) for i in range(n)]
    assert holdout(cases, 0.2, seed) == (tuple(f"a{i}" for i in range(5)), ("b0", "b1"))


def test_a_table_that_is_no_table_says_what_to_do(tmp_path):
    (tmp_path / "c.csv").write_text("\n")
    with pytest.raises(DataError, match=r"an empty table.*fill the table"):
        scan(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("image,label\na.png,b.png\n", encoding="utf-16")
    with pytest.raises(FileError, match=r"CSV in UTF-8.*save the table again"):
        scan(tmp_path / "c.csv")


def test_a_tables_train_and_val_rows_are_respected_and_test_rows_stay_out():
    cases = [Case(i, i, (), split=s) for i, s in zip("abcd", ("train", "val", "test", "train"), strict=True)]
    assert [c.id for c in trainable(cases)] == ["a", "b", "d"]
    assert split_folds(cases, 5) == [(("a", "d"), ("b",))]
    assert holdout(cases, 0.5) == (("a", "d"), ("b",))
    assert "1 case " in split_notes(cases, 5)[0]


def test_a_column_fold_is_respected():
    cases = [Case(i, i, (), attributes={"fold": str(n % 2)}) for n, i in enumerate("abcd")]
    assert split_folds(cases, 5) == [(("b", "d"), ("a", "c")), (("a", "c"), ("b", "d"))]


def test_splitting_nothing_is_refused():
    with pytest.raises(OptionError):
        split_folds([], 5)
    with pytest.raises(OptionError):
        split_folds(cases_of([1, 1]), 0)


@pytest.mark.data
def test_real_tables_load():
    root = os.environ.get("BIOSEGKIT_DATA")
    if not root:
        pytest.skip("BIOSEGKIT_DATA is not set")
    found = scan(Path(root) / "msd_hippocampus/cases.csv", where={"split": "train"})
    image, labels = found.load(found[0], "semantic")
    assert len(found) == 140
    assert (image.grid.shape, labels.grid.shape) == ((35, 51, 35), (35, 51, 35))
    assert len(scan(Path(root) / "dsb2018/cases.csv", where={"type": "fluo"})) == 432


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "C:x", "a\\b", "a\tb"])
def test_ids_that_lead_out_of_a_run_are_refused(tmp_path, name):
    touch(tmp_path, "a.tif")
    with pytest.raises(DataError, match="cannot be file names"):
        scan(table(tmp_path, f'image,label,case\na.tif,a.tif,"{name}"\n'))


def test_a_table_in_the_folder_that_is_not_used_is_told(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.tif", "cases.csv")
    assert "cases.csv is not used" in scan(tmp_path).notes[0]


def test_a_missing_table_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        scan(tmp_path / "none.csv")


def test_names_with_an_addition_get_the_globs_that_pair_them(tmp_path):
    for i in range(8, 12):
        for folder, tail in (("images", "_raw.png"), ("labels", "_mask.tif")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"nuc{i:02d}{tail}").touch()
    with pytest.raises(DataError, match="4 images without labels") as caught:
        scan(tmp_path)
    globs = re.findall("'(.*)'", caught.value.remedy)[0]
    assert globs.endswith("labels/nuc*_mask.tif")
    assert [c.id for c in scan(globs)] == ["08", "09", "10", "11"]
    (tmp_path / "labels/nuc11_mask.tif").unlink()
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    assert "::" not in caught.value.remedy  # no globs pair what is not there


def test_images_beside_masks_say_that_masks_are_not_read(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    assert "masks/ beside it is not read" in scan(tmp_path).notes[0]


def test_globs_of_one_folder_leave_the_labels_out_of_the_images(tmp_path):
    """What the error about a folder with neither images/ nor labels/ recommends."""
    touch(tmp_path, "x0.tif", "x0_mask.tif", "x1.tif", "x1_mask.tif")
    found = scan(f"{tmp_path}/*.tif::{tmp_path}/*_mask.tif")
    assert [(c.id, c.images[0].name, c.labels.name) for c in found] == [
        ("x0", "x0.tif", "x0_mask.tif"), ("x1", "x1.tif", "x1_mask.tif")]


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_tables_of_spreadsheets_are_read(tmp_path, mark):
    touch(tmp_path, "a.tif", "b.tif")
    rows = (("Image", "LABEL", "Split", "Stain"), ("a.tif", "b.tif", "train", "HE"))
    (tmp_path / "cases.csv").write_text("\n".join(mark.join(row) for row in rows))
    case, = scan(tmp_path / "cases.csv")
    assert (case.images[0].name, case.labels.name, case.split) == ("a.tif", "b.tif", "train")
    assert case.attributes["Stain"] == "HE"


def test_a_table_that_calls_its_labels_otherwise_is_told_so(tmp_path):
    touch(tmp_path, "a.tif", "b.tif")
    (tmp_path / "cases.csv").write_text("Image,Mask\na.tif,b.tif\n")
    found = scan(tmp_path / "cases.csv")
    assert found[0].labels is None
    note, = found.notes
    assert note.startswith(f"no column label in {tmp_path / 'cases.csv'}, its columns are image, Mask: name")
    (tmp_path / "cases.csv").write_text("Image,Label\na.tif,b.tif\n")
    assert scan(tmp_path / "cases.csv").notes == ()


def test_a_table_written_on_windows_is_read_elsewhere(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.tif")
    (tmp_path / "cases.csv").write_text("image,label\nimages\\a.tif,labels\\a.tif\n")
    case, = scan(tmp_path / "cases.csv")
    assert (case.id, case.images[0], case.labels) == ("a", tmp_path / "images/a.tif", tmp_path / "labels/a.tif")
