"""Objects with classes: votes by hand, targets, loss, means, block cuts, flips, the doctor, a whole run."""

import csv
import itertools
import math

import numpy as np
import pytest
import tifffile
import torch
from small_sets import discs, tiny_plan

from biosegkit.cases import scan
from biosegkit.checks import diagnose
from biosegkit.configure import label_table
from biosegkit.errors import DataError, OptionError
from biosegkit.fingerprint import measure, survey
from biosegkit.grid import Grid
from biosegkit.image import Image, Labels
from biosegkit.methods import METHODS, Block, Distance, WithClasses, decode
from biosegkit.methods.classes import decided
from biosegkit.object_classes import class_votes
from biosegkit.patches import NONE
from biosegkit.plan.schema import LabelTable, Plan
from biosegkit.planes import slice_by_slice
from biosegkit.predict import predict_files
from biosegkit.preprocess import load_or_make, make_sample, sample_key
from biosegkit.reduced import reduced
from biosegkit.segmenter import method_of
from biosegkit.train import fit

INSTANCE = sorted(set(METHODS) - {"semantic"})
METHOD = WithClasses(Distance(), 3)


def votes_of(labels, classes, **options):
    grid = Grid.regular(np.shape(labels))
    return class_votes(Labels.from_values(np.array(labels), grid, "instance", **options),
                       Labels.from_values(np.array(classes), grid, "semantic"))


def test_most_voxels_of_an_object_decide():
    labels = [[4, 4, 4, 4, 0], [70000, 70000, 9, 9, 9]]
    votes = votes_of(labels, [[0, 0, 0, 8, 8], [5, 300, 7, 7, 5]])
    assert votes.values.tolist() == [0, 8, 7, 5]  # objects 4, 9, 70000; of equals the smallest
    assert (votes.without, votes.several) == (0, 2)
    assert votes.numbered((5, 8)).tolist() == [0, 2, 0, 1]
    ignored = votes_of(labels, [[8] * 5, [0, 0, 7, 7, 5]], ignore_value=9)
    assert ignored.values.tolist() == [0, 8, 0]
    assert (ignored.without, ignored.several) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_votes_are_those_of_a_count_per_object(seed):
    rng = np.random.default_rng(seed)
    labels, classes = rng.integers(0, 6, (9, 8)), rng.choice([0, 2, 3, 11], (9, 8))
    votes = votes_of(labels, classes)
    for k, value in enumerate(np.unique(labels[labels > 0]), 1):
        counts = {c: ((labels == value) & (classes == c)).sum() for c in (2, 3, 11)}
        assert votes.values[k] == max(counts, key=lambda c: (counts[c], -c))


def test_targets_and_loss_by_hand():
    labels, valid = np.array([[0, 1, 1, 2, 3]]), np.array([[True, True, False, True, True]])
    targets, weights = METHOD.encode(labels, (1.0, 1.0), valid, np.array([0, 3, 0, 1]))
    assert targets["class"].tolist() == [[0, 2, 0, 0, 0]]
    assert weights["class"].tolist() == [[0, 1, 0, 0, 1]]  # background, ignored, without class
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    outputs = {h.name: torch.zeros(1, h.channels, 1, 5) for h in METHOD.heads(2)}
    outputs["class"][0, :, 0, 1] = torch.tensor([0.0, 1.0, 2.0])
    outputs["class"].requires_grad_()
    losses = METHOD.loss(outputs, *tensors)
    terms = {k: v.detach() for k, v in losses.items()}
    first = math.log(1 + math.exp(1) + math.exp(2)) - 2
    assert float(terms["class"]) == pytest.approx((first + math.log(3)) / 2, rel=1e-6)
    twice = WithClasses(Distance(), 3, class_weight=2.0).loss(outputs, *tensors)
    assert float(twice["class"].detach()) == pytest.approx(2 * float(terms["class"]))
    inner = Distance().loss(outputs, *tensors)
    assert {k: float(v) for k, v in terms.items() if k != "class"} == {k: float(v) for k, v in inner.items()}
    losses["class"].backward()
    taught = outputs["class"].grad.abs().sum((0, 1, 2)) > 0
    assert taught.tolist() == [False, True, False, False, True]


def test_objects_have_the_same_say_however_large():
    """The loss is the mean over objects of the mean over their voxels: by hand, from the entropies of three objects."""
    labels, valid = np.array([[1, 1, 1, 1, 2, 0, 3, 3, 3]]), np.ones((1, 9), bool)
    valid[0, 8] = False
    targets, weights = METHOD.encode(labels, (1.0, 1.0), valid, np.array([0, 1, 2, 3]))
    assert weights["class"].tolist() == [[0.25] * 4 + [1, 0, 0.5, 0.5, 0]]
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    outputs = {h.name: torch.zeros(1, h.channels, 1, 9) for h in METHOD.heads(2)}
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 9)))
    outputs["class"][0, :, 0] = logits
    p = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(0))
    expected = -(p[0, :4].mean() + p[1, 4] + p[2, 6:8].mean()) / 3
    assert float(METHOD.loss(outputs, *tensors)["class"]) == pytest.approx(expected, rel=1e-6)


def test_patches_without_classes_teach_none():
    targets, weights = METHOD.encode(np.array([[0, 1, 1]]), (1.0, 1.0))
    assert not weights["class"].any()
    tensors = [{k: torch.from_numpy(v)[None] for k, v in d.items()} for d in (targets, weights)]
    terms = METHOD.loss({h.name: torch.zeros(1, h.channels, 1, 3) for h in METHOD.heads(2)}, *tensors)
    assert float(terms["class"]) == 0.0


def classed(name, shape=(26, 30), seed=0):
    """A method with classes and the maps of discs with noisy classes."""
    method = WithClasses(METHODS[name](), 3)
    labels = discs(shape, count=5, seed=seed)[1]
    maps = method.ideal(method.encode(labels, (1.0,) * len(shape))[0])
    noise = np.random.default_rng(seed).dirichlet((1, 1, 1), shape).astype(np.float32)
    return method, {**maps, "class": np.moveaxis(noise, -1, 0)}, labels


@pytest.mark.parametrize("name", INSTANCE)
def test_the_mean_over_the_object_decides_for_every_method(name):
    method, maps, _ = classed(name)
    labels, table = decode(method, maps)
    plain, alone = decode(method.inner, {k: m for k, m in maps.items() if k != "class"})
    np.testing.assert_array_equal(labels, plain)  # classes move no border
    assert len(table["id"]) > 2
    for column in alone:
        np.testing.assert_array_equal(table[column], alone[column])
    for k, number in enumerate(table["id"]):
        mean = maps["class"][:, labels == number].mean(1)
        assert table["class"][k] == 1 + mean.argmax()
        assert table["class_probability"][k] == pytest.approx(mean.max(), abs=1e-4)


@pytest.mark.parametrize(("name", "shape"), [(n, (26, 30)) for n in INSTANCE] + [("distance", (8, 14, 15))])
def test_cuts_into_blocks_change_nothing(name, shape):
    method, maps, _ = classed(name, shape, 3)
    maps["class"] = np.round(maps["class"], 1)
    whole, table = decode(method, maps)
    rng = np.random.default_rng(7)
    for _ in range(3):
        size = [int(rng.integers(5, n + 1)) for n in shape]
        starts = list(itertools.product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))))
        blocks = [Block.cut(starts[k], tuple(min(s, n - a) for s, n, a in zip(size, shape, starts[k], strict=True)),
                            shape, method.halo) for k in rng.permutation(len(starts))]
        states = [method.local({k: m[(slice(None), *b.read)] for k, m in maps.items()}, b) for b in blocks]
        decisions = method.resolve(states)
        labels, rows = np.zeros_like(whole), []
        for state in states:
            labels[state.block.write], here = method.paint(state, decisions)
            rows += here["class"].tolist()
        np.testing.assert_array_equal(labels, whole)
        assert sorted(rows) == sorted(table["class"].tolist())
        for column, values in table.items():
            np.testing.assert_array_equal(decisions.objects[column], values)


@pytest.mark.parametrize("name", INSTANCE)
def test_flips_commute(name):
    method, _, labels = classed(name)
    classes = np.array([0, 1, 3, 2, 1, 3])[: labels.max() + 1]
    for axes in ([0], [1], [0, 1]):
        maps = method.ideal(method.encode(labels, (1.0, 1.0), None, classes)[0])
        flipped = method.ideal(method.encode(np.flip(labels, axes), (1.0, 1.0), None, classes)[0])
        for key, m in method.mirror(maps, axes).items():
            np.testing.assert_allclose(flipped[key], m, rtol=1e-5, atol=1e-6)


def test_objects_joined_from_planes_are_decided_as_a_whole():
    labels = np.zeros((2, 8, 12), np.uint8)
    labels[0, 1:7, 1:9], labels[1, 1:7, 1:7] = 1, 1
    maps = {n: np.stack([METHOD.ideal(METHOD.encode(p, (1.0, 1.0))[0])[n] for p in labels], 1)
            for n in ("foreground", "distance")}
    maps["class"] = np.zeros((3, *labels.shape), np.float32)
    maps["class"][:, 0] = np.reshape([0.6, 0.4, 0.0], (3, 1, 1))  # 48 voxels
    maps["class"][:, 1] = np.reshape([0.1, 0.4, 0.5], (3, 1, 1))  # 36 voxels
    view = np.zeros(labels.shape, np.uint32)
    window = tuple(slice(0, n) for n in view.shape)
    table = slice_by_slice(METHOD, reduced(METHOD, [(maps, Block.whole(view.shape))], True), (view, window), {})
    found = decided(table, (10, 20, 30))
    assert found["area"].tolist() == [84]
    assert found["class"].tolist() == [20]  # 0.386, 0.4, 0.214: no plane's own choice
    assert found["class_probability"][0] == pytest.approx(0.4, abs=1e-4)
    assert not [name for name in found if "mean" in name]


def test_no_objects_and_wrong_options():
    maps = {h.name: np.zeros((h.channels, 5, 6), np.float32) for h in METHOD.heads(2)}
    _, table = decode(METHOD, maps)
    assert table["class"].shape == table["class_probability"].shape == (0,)
    for wrong in (lambda: WithClasses(Distance(), 1), lambda: WithClasses(Distance(), 2, class_weight=0.0)):
        with pytest.raises(OptionError):
            wrong()


def write_classes(folder, cases=5, shape=(32, 32)):
    """Discs that are bright (class 7) or dim (class 4), in folders."""
    for kind in ("images", "labels", "classes"):
        (folder / kind).mkdir(parents=True)
    for i in range(cases):
        _, labels = discs(shape, count=4, seed=i, radius=4)
        kinds = np.array([0, 7, 4, 7, 4])[labels]
        noise = np.random.default_rng(i).normal(0, 4, shape)
        image = np.choose(kinds // 3, [20, 110, 220]) + noise
        tifffile.imwrite(folder / f"images/c{i}.tif", image.clip(0, 255).astype(np.uint8))
        tifffile.imwrite(folder / f"labels/c{i}.tif", labels)
        tifffile.imwrite(folder / f"classes/c{i}.tif", kinds.astype(np.uint8))
    return folder


def test_folder_and_table_are_the_same_and_say_what_is_wrong(tmp_path):
    folder = write_classes(tmp_path / "d", 2)
    rows = ["image,label,classes", *(f"images/c{i}.tif,labels/c{i}.tif,classes/c{i}.tif" for i in range(2))]
    (folder / "table.csv").write_text("\n".join(rows))
    assert [c.classes for c in scan(folder)] == [c.classes for c in scan(folder / "table.csv")]
    found = measure(scan(folder), task="instance").object_classes
    assert [(c.value, c.objects, c.cases) for c in found] == [(4, 4, 2), (7, 4, 2)]
    (folder / "table.csv").write_text("\n".join(rows).replace("classes/c1", "classes/none"))
    with pytest.raises(DataError, match=r"none\.tif"):
        scan(folder / "table.csv")
    (folder / "classes/c1.tif").rename(folder / "classes/other.tif")
    with pytest.raises(DataError, match="other"):
        scan(folder)


def said(folder):
    return [(p.severity, p.code, p.found) for p in diagnose(scan(folder))]


def test_the_doctor_speaks_of_classes(tmp_path):
    folder = write_classes(tmp_path / "d", 3)
    assert not [p for p in said(folder) if "class" in p[2]]
    labels, kinds = tifffile.imread(folder / "labels/c0.tif"), tifffile.imread(folder / "classes/c0.tif")
    kinds[labels == 1] = 0
    kinds[np.nonzero(labels == 2)[0][0], np.nonzero(labels == 2)[1][0]] = 7
    tifffile.imwrite(folder / "classes/c0.tif", kinds)
    tifffile.imwrite(folder / "classes/c1.tif", np.zeros((9, 9), np.uint8))
    (folder / "classes/c2.tif").unlink()
    problems = said(folder)
    assert ("warning", "L5", "1 of 4 objects without class") in problems
    assert ("warning", "L5", "1 of 4 objects with several classes") in problems
    assert [p for p in problems if p[:2] == ("error", "G1") and "(9, 9)" in p[2]]
    assert [p for p in problems if p[0] == "warning" and "1 case without class image: c2" in p[2]]


def test_class_images_mean_objects(tmp_path):
    dataset = scan(write_classes(tmp_path / "d", 2))
    found = measure(dataset)
    assert (found.task, found.task_reason) == ("instance", "class images beside the labels")
    assert label_table(found, dataset).object_values == (4, 7)
    other = measure(dataset, task="semantic")
    assert other.object_classes == label_table(other, dataset).object_values == ()
    problems = survey(dataset, task="semantic")[0]
    assert [p for p in problems if p.found == "class images with --task semantic"]


def test_one_class_is_no_choice(tmp_path):
    folder = write_classes(tmp_path / "d", 2)
    for i in range(2):
        tifffile.imwrite(folder / f"classes/c{i}.tif", np.full((32, 32), 5, np.uint8))
    dataset = scan(folder)
    assert [p for p in said(folder) if "1 class of objects: [5]" in p[2]]
    assert label_table(measure(dataset, task="instance"), dataset).object_values == ()


def with_kinds(plan, names=("dim", "bright"), values=(4, 7)):
    table = plan.labels.model_copy(update={"object_names": names, "object_values": values})
    return plan.model_copy(update={"labels": table})


def test_plans_without_classes_keep_their_text_and_hash(tmp_path):
    plan = tiny_plan()
    assert "object_" not in plan.model_dump_json()
    assert Plan.from_data(plan.model_dump(mode="json")) == plan
    assert with_kinds(plan).hash != plan.hash
    assert Plan.from_data(with_kinds(plan).model_dump(mode="json")) == with_kinds(plan)
    assert isinstance(method_of(with_kinds(plan)), WithClasses)
    assert not isinstance(method_of(plan), WithClasses)
    dataset = scan(write_classes(tmp_path / "d", 1))
    assert "object_classes" in measure(dataset, task="instance").model_dump_json()
    plain = measure(scan(f"{tmp_path}/d/images/*.tif::{tmp_path}/d/labels/*.tif"), task="instance")
    assert "object_classes" not in plain.model_dump_json()
    assert LabelTable(task="instance", names=("background", "object"), values=(0, 1)).object_names == ()


def test_samples_hold_the_class_of_each_object_and_are_made_anew_when_it_changes(tmp_path):
    folder = write_classes(tmp_path / "d", 2)
    dataset, plan = scan(folder), with_kinds(tiny_plan())
    samples = load_or_make(dataset, list(dataset), plan, tmp_path / "store")
    assert samples[0].classes.tolist() == [0, 2, 1, 2, 1]
    again = load_or_make(dataset, list(dataset), plan, tmp_path / "store")
    np.testing.assert_array_equal(again[0].classes, samples[0].classes)
    assert load_or_make(dataset, list(dataset), tiny_plan(), tmp_path / "store")[0].classes is None
    before, plain = (sample_key(dataset[0], p, dataset.about) for p in (plan, tiny_plan()))
    tifffile.imwrite(folder / "classes/c0.tif", np.full((32, 32), 7, np.uint8))
    assert sample_key(dataset[0], plan, dataset.about) != before
    assert sample_key(dataset[0], tiny_plan(), dataset.about) == plain
    assert load_or_make(dataset, list(dataset), plan, tmp_path / "store")[0].classes.tolist() == [0, 2, 2, 2, 2]
    image, labels = dataset.load(dataset[0], "instance")
    assert make_sample(image, labels, plan, "c0").classes is None


def able_plan():
    """A plan with twice the width of the tiny one, without augmentation."""
    plan = with_kinds(tiny_plan(patch=(32, 32), batch=4, steps=200, learning_rate=0.005, augmentation=NONE))
    architecture = plan.configuration.architecture.model_copy(update={"features": (8, 12, 16)})
    return plan.model_copy(update={"configuration": plan.configuration.model_copy(update={
        "architecture": architecture})})


def test_bright_and_dim_discs_are_told_apart(tmp_path):
    folder = write_classes(tmp_path / "d", 6)
    dataset = scan(folder)
    bundle = fit(able_plan(), dataset, tmp_path / "run", device="cpu")
    image, truth = dataset.load(dataset[5], "instance")
    found = bundle.predict(image)
    kinds = tifffile.imread(folder / "classes/c5.tif")
    right = [kinds[found.labels.array == k] for k in found.objects["id"]]
    assert len(right) >= 3
    for values, named in zip(right, found.objects["class"], strict=True):
        assert named == np.bincount(values[values > 0]).argmax()
    assert (found.objects["class_probability"] >= 0.5).all()
    assert isinstance(image, Image)
    assert truth.count == 4
    predict_files(bundle, folder / "images/c5.tif", tmp_path / "out")
    with (tmp_path / "out/c5.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(r["class"]) for r in rows] == found.objects["class"].tolist()
    assert not [name for name in rows[0] if "mean" in name]
