"""Faults D1 to D5: pairs, mixtures, copies, few cases, names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

from biosegkit.cases import Case, Description, scan, split_folds, split_notes
from biosegkit.checks import diagnose, refuse
from biosegkit.errors import DataError
from biosegkit.fingerprint import survey
from biosegkit.layouts import grouped
from biosegkit.splits import suggested_groups


def write(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **options)


def picture(seed: int, shape=(12, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def blobs(shape=(12, 12)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[..., 2:5, 2:5], array[..., 7:10, 7:10] = 1, 2
    return array


def dataset(root: Path, names: Sequence[str] = "abcd", **images: np.ndarray) -> Path:
    for i, name in enumerate(names):
        array = images.get(name, picture(i))
        write(root / "images" / f"{name}.tif", array)
        write(root / "labels" / f"{name}.tif", blobs(array.shape[-2:] if array.shape[-1] > 4 else array.shape[:2]))
    return root


def codes(problems) -> list[tuple[str, str]]:
    return [(p.code, p.severity) for p in problems]


def test_D1_missing_and_extra_pairs_are_all_listed(tmp_path):
    dataset(tmp_path)
    for name in ("labels/a.tif", "labels/c.tif", "images/d.tif"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    assert "2 images without labels: a, c" in str(caught.value)
    assert "1 label file without image: d" in str(caught.value)


def test_D1_one_does_not_find_eleven(tmp_path):
    for name in ("images/1.tif", "images/11.tif", "labels/11.tif", "labels/1.tif"):
        write(tmp_path / name, picture(0))
    assert [(c.id, c.labels.name) for c in scan(tmp_path)] == [("1", "1.tif"), ("11", "11.tif")]
    (tmp_path / "labels/1.tif").unlink()
    with pytest.raises(DataError, match="1 image without labels: 1;"):
        scan(tmp_path)


def test_D1_two_files_of_one_name_are_refused(tmp_path):
    dataset(tmp_path, "ab")
    write(tmp_path / "images" / "a.ome.tif", picture(9))
    with pytest.raises(DataError, match=r"share a name: a \(a.ome.tif, a.tif\)"):
        scan(tmp_path)


def test_D1_nnunet_channels_missing_and_too_many(tmp_path):
    for name in ("imagesTr/a_0000.tif", "imagesTr/a_0001.tif", "imagesTr/b_0000.tif", "imagesTr/z_0000.tif",
                 "labelsTr/a.tif", "labelsTr/b.tif", "labelsTr/c.tif"):
        write(tmp_path / name, picture(0))
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    for name in ("b_0001", "c_0000", "c_0001", "z_0000"):
        assert name in str(caught.value)
    assert "a_000" not in str(caught.value)


def test_D1_a_table_lists_every_missing_file(tmp_path):
    (tmp_path / "t.csv").write_text("image,label\na.tif,la.tif\nb.tif,lb.tif\n")
    with pytest.raises(DataError) as caught:
        scan(tmp_path / "t.csv")
    assert all(name in str(caught.value) for name in ("4 files", "a.tif", "la.tif", "b.tif", "lb.tif"))


def test_D1_a_table_with_some_empty_labels_lists_them(tmp_path):
    write(tmp_path / "a.tif", picture(0))
    (tmp_path / "t.csv").write_text("image,label,case\na.tif,a.tif,one\na.tif,,two\n")
    with pytest.raises(DataError, match="1 image without labels: two"):
        scan(tmp_path / "t.csv")


def test_D1_equal_ids_are_all_listed(tmp_path):
    write(tmp_path / "a.tif", picture(0))
    (tmp_path / "t.csv").write_text("image,label,case\n" + "".join(f"a.tif,a.tif,{n}\n" for n in "xxyyz"))
    with pytest.raises(DataError, match="2 ids used twice: x, y"):
        scan(tmp_path / "t.csv")


def test_D1_unlabelled_images_are_refused_for_training(tmp_path):
    write(tmp_path / "images/a.tif", picture(0))
    assert codes(diagnose(scan(tmp_path)))[0] == ("D1", "error")


def test_D2_mixed_channels_are_refused_with_a_table(tmp_path):
    dataset(tmp_path, "abc", c=np.stack([picture(i) for i in range(3)], axis=-1))
    found = [p for p in diagnose(scan(tmp_path)) if p.code == "D2"]
    assert [p.severity for p in found] == ["error"]
    assert "2 × [2D, 1 channel] (a, b)" in found[0].found
    assert "1 × [2D, 3 channels, colours] (c)" in found[0].found


def test_D2_grey_images_stored_as_colours_are_colours_where_three_channels_are_named(tmp_path):
    grey = np.repeat(picture(7)[..., None], 3, axis=-1)
    dataset(tmp_path, "ab", a=np.stack([picture(i) for i in range(3)], axis=-1), b=grey)
    assert "D2" in [p.code for p in diagnose(scan(tmp_path))]
    named = scan(tmp_path, describe=Description(channel_names=("red", "green", "blue")))
    assert not [p for p in diagnose(named) if p.severity == "error"]
    assert named.load_image(named[1]).array.tolist() == grey.transpose(2, 0, 1).tolist()
    one = scan(tmp_path, describe=Description(channel_names=("grey",)))
    assert ("D2", "a") in [(p.code, p.case) for p in diagnose(one)]


def test_D2_mixed_dimensions_are_refused(tmp_path):
    dataset(tmp_path, "ab")
    write(tmp_path / "images/c.tif", picture(5, (5, 12, 12)), metadata={"axes": "ZYX"}, imagej=True)
    write(tmp_path / "labels/c.tif", blobs((5, 12, 12)), metadata={"axes": "ZYX"}, imagej=True)
    found = [p for p in diagnose(scan(tmp_path)) if p.code == "D2"]
    assert "1 × [3D, 1 channel] (c)" in found[0].found
    assert found[0].severity == "error"


def test_D3_a_copy_under_another_name_is_told(tmp_path):
    dataset(tmp_path, "abc", b=picture(0))
    found = [p for p in diagnose(scan(tmp_path)) if p.code == "D3"]
    assert [(p.severity, p.found) for p in found] == [
        ("warning", "the same image as a, b in different groups, so that a split may part them")]


def test_D3_one_changed_pixel_is_no_copy(tmp_path):
    near = picture(0)
    near[3, 4] ^= 1
    dataset(tmp_path, "ab", b=near)
    assert not [p for p in diagnose(scan(tmp_path)) if p.code == "D3"]


def test_D3_a_patient_on_both_sides_of_a_split_is_told(tmp_path):
    dataset(tmp_path, "abc")
    rows = [f"images/{n}.tif,labels/{n}.tif,{rest}\n" for n, rest in (("a", "p,train"), ("b", "p,val"), ("c", "q,val"))]
    (tmp_path / "t.csv").write_text("image,label,group,split\n" + "".join(rows))
    found = [p for p in diagnose(scan(tmp_path / "t.csv")) if p.code == "D3"]
    assert [p.found for p in found] == ["group p in splits train, val"]


def test_D3_splits_never_cut_a_patient():
    cases = [Case(f"{p}{i}", p, ()) for p in "abc" for i in range(4)]
    folds = split_folds(cases, 3)
    assert sorted(i for _, validation in folds for i in validation) == sorted(c.id for c in cases)
    for train, validation in folds:
        assert not {i[0] for i in train} & {i[0] for i in validation}


def test_D4_fewer_cases_than_folds():
    cases = [Case(n, n, ()) for n in "abc"]
    assert len(split_folds(cases, 5)) == 3
    assert split_notes(cases, 5) == ["3 groups for 5 folds: 3 folds are used"]
    assert split_notes(cases, 3) == []


def test_D4_one_case_validates_on_itself_and_says_so(tmp_path):
    dataset(tmp_path, "a")
    found = scan(tmp_path)
    assert split_folds(found, 5) == [(("a",), ("a",))]
    assert "validation uses the training cases" in split_notes(found, 5)[0]
    assert ("D4", "warning") in codes(diagnose(found))
    refuse(diagnose(found))


@pytest.mark.parametrize("name", ["größe µm", "a#b", "日本語", "with space", "x" * 180, "100%;odd", "e\u0301"])
def test_D5_any_name_is_accepted(tmp_path, name):
    dataset(tmp_path, "ab")
    write(tmp_path / "images" / f"{name}.tif", picture(7))
    write(tmp_path / "labels" / f"{name}.tif", blobs())
    assert not [p for p in diagnose(scan(tmp_path)) if p.severity == "error"]


def test_D5_a_name_composed_in_two_ways_is_one_name(tmp_path):
    write(tmp_path / "images" / "caf\u00e9.tif", picture(0))
    write(tmp_path / "labels" / "cafe\u0301.tif", blobs())
    assert [c.id for c in scan(tmp_path)] == ["caf\u00e9"]


def test_D5_names_that_differ_in_case_only_are_told(tmp_path):
    dataset(tmp_path, "ab")
    write(tmp_path / "images" / "A.tif", picture(7))
    if len(list((tmp_path / "images").iterdir())) < 3:
        pytest.skip("this file system does not tell cases apart")
    write(tmp_path / "labels" / "A.tif", blobs())
    found = [p for p in diagnose(scan(tmp_path)) if p.code == "D5"]
    assert [(p.severity, "A, a" in p.found) for p in found] == [("warning", True)]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_D5_a_loop_of_links_is_refused_and_other_links_are_followed(tmp_path):
    dataset(tmp_path / "real", "ab")
    root = tmp_path / "linked"
    root.mkdir()
    (root / "images").symlink_to(tmp_path / "real/images")
    (root / "labels").symlink_to(tmp_path / "real/labels")
    assert [c.id for c in scan(root)] == ["a", "b"]
    (tmp_path / "real/images/again").symlink_to(tmp_path / "real/images")
    with pytest.raises(DataError, match="symbolic link"):
        scan(root)


def test_all_problems_come_at_once(tmp_path):
    dataset(tmp_path, "abc", b=picture(1, (12, 13)))
    write(tmp_path / "labels/b.tif", blobs((11, 13)))
    write(tmp_path / "labels/c.tif", blobs().astype(np.float32) + 0.5)
    (tmp_path / "images/a.tif").write_bytes(b"")
    problems = diagnose(scan(tmp_path))
    assert [(p.code, p.case) for p in problems if p.severity == "error"] == [("F4", "a"), ("G1", "b"), ("L3", "c")]
    with pytest.raises(DataError, match=r"(?s)3 problem.*a\.tif.*b\.tif.*c\.tif"):
        refuse(problems)


@pytest.mark.parametrize("form", ["names", "additions", "table", "nnunet"])
def test_D1_what_does_pair_is_checked_in_the_same_turn(tmp_path, form):
    """The doctor tells of wrong sizes although other files do not pair; training is refused as before."""
    source = dataset(tmp_path)
    write(tmp_path / "labels/b.tif", blobs((12, 14)))
    expected = "image without labels: a"
    if form == "names":
        (tmp_path / "labels/a.tif").unlink()
    elif form == "additions":
        expected = "4 images without labels"
        for path in sorted((tmp_path / "labels").iterdir()):
            path.rename(path.with_name(f"{path.stem}_seg.tif"))
    elif form == "table":
        expected = "2 files missing"
        source = tmp_path / "table.csv"
        source.write_text("image,label\n" + "".join(f"images/{n}.tif,labels/{n}.tif\n" for n in "abcde"[1:]))
    else:
        expected = "1 image file missing"
        (tmp_path / "images").rename(tmp_path / "imagesTr")
        (tmp_path / "labels").rename(tmp_path / "labelsTr")
        for path in sorted((tmp_path / "imagesTr").iterdir()):
            path.rename(path.with_name(f"{path.stem}_0000.tif"))
        (tmp_path / "imagesTr/a_0000.tif").unlink()
    with pytest.raises(DataError, match=expected):
        scan(source)
    problems = [p for p in diagnose(scan(source, partial=True)) if p.severity == "error"]
    assert {p.code for p in problems} == {"D1", "G1"}
    assert any(expected in p.found for p in problems)
    assert [p.case for p in problems if p.code == "G1"] == ["b"]


def test_D1_nothing_that_pairs_is_one_error(tmp_path):
    for name in ("images/left.tif", "labels/right.tif"):
        write(tmp_path / name, picture(0))
    problems, measured = survey(scan(tmp_path, partial=True))
    assert codes(problems) == [("D1", "error")]
    assert measured is None


@pytest.mark.parametrize(("ids", "groups"), [
    (["p001_f01", "p001_f12", "p011_f01", "p011_f08"], ["p001", "p001", "p011", "p011"]),
    (["p001_f01", "p002_f01", "p002_f08"], ["p001", "p002", "p002"]),
    (["ct-rat3-a", "ct-rat3-b", "ct-mouse10-a", "ct-mouse10-b"], ["ct-rat3"] * 2 + ["ct-mouse10"] * 2),
    (["P1/left", "P1/right", "P2/left"], ["P1", "P1", "P2"]),
    (["scan 1a 1", "scan 1a 2", "scan 2b 1"], ["scan 1a", "scan 1a", "scan 2b"]),
    (["hippocampus_001", "hippocampus_003"], None),  # one beginning
    (["left_1", "left_2", "right_1", "right_2"], None),  # no numbers: conditions
    (["1135_mini", "1136_mini", "1137_mini"], None),  # all different
    (["a1_1", "a1_2", *(f"a{k}_1" for k in range(2, 12))], None),  # two of twelve: chance
    (["001", "002"], None), (["p1_a"], None),
])
def test_D3_frames_of_a_patient_get_a_group_that_works(ids, groups):
    cases = [Case(i, i, ()) for i in ids]
    hint = suggested_groups(cases)
    if groups is None:
        assert hint is None
        return
    assert [c.group for c in grouped(cases, hint[0])] == groups
    assert hint[1] == Counter(groups)
    assert suggested_groups(grouped(cases, hint[0])) is None


def test_D3_the_hint_is_told_and_following_it_ends_it(tmp_path):
    source = dataset(tmp_path, names=("p1_f1", "p1_f2", "p2_f1", "p2_f2"))
    hints = [p for p in diagnose(scan(source)) if "--group" in p.remedy]
    assert codes(hints) == [("D3", "warning")]
    assert "p1, p2" in hints[0].found
    pattern = hints[0].remedy.split("'")[1]
    again = scan(source, describe=Description(group=pattern))
    assert [c.group for c in again] == ["p1", "p1", "p2", "p2"]
    assert not [p for p in diagnose(again) if "--group" in p.remedy]
    rows = "".join(f"images/{c.id}.tif,labels/{c.id}.tif,{k % 2}\n" for k, c in enumerate(again))
    (tmp_path / "table.csv").write_text("image,label,fold\n" + rows)
    assert not [p for p in diagnose(scan(tmp_path / "table.csv")) if "--group" in p.remedy]  # folds are given
