"""Labels drawn in colours: each colour named stands for its number, each other one for an object, if any (V9)."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tifffile
from typer.testing import CliRunner

import biosegkit as bsk
from biosegkit._options import Meaning
from biosegkit.cli import app
from biosegkit.description import Description
from biosegkit.errors import DataError, OptionError
from biosegkit.io.colours import renaming
from biosegkit.plan.schema import LabelTable

NUMBERS = np.array([[0, 1, 2], [2, 2, 0]])
PAINT = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], np.uint8)
NAMED = {"#ff0000": 1, "#0080ff": 2}


def drawn(path, numbers=NUMBERS, paint=PAINT, alpha=None):
    """A label image in colours."""
    pixels = paint[numbers]
    if alpha is not None:
        pixels = np.dstack([pixels, np.full(numbers.shape, alpha, np.uint8)])
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_a_colour_is_the_number_it_is_said_to_be(tmp_path, ending):
    found = bsk.read_labels(drawn(tmp_path / f"a.{ending}"), "semantic", mapping=NAMED)
    assert np.array_equal(found.restored(), NUMBERS)


def test_alpha_is_no_part_of_the_colour(tmp_path):
    found = bsk.read_labels(drawn(tmp_path / "a.png", alpha=9), "semantic", mapping=NAMED)
    assert np.array_equal(found.restored(), NUMBERS)
    assert any("alpha" in note for note in found.notes)


def test_any_numbers_two_colours_of_one_number_and_another_background(tmp_path):
    path = drawn(tmp_path / "a.png")
    found = bsk.read_labels(path, "semantic", mapping={"#ff0000": 7, "#0080ff": 7, "#000000": 300})
    assert np.array_equal(found.restored(), np.where(NUMBERS == 0, 300, 7))
    white = drawn(tmp_path / "b.png", paint=255 - PAINT)
    found = bsk.read_labels(white, "semantic", mapping={"#ffffff": 0, "#00ffff": 1, "#ff7f00": 2})
    assert np.array_equal(found.restored(), NUMBERS)


def test_ignored_voxels_can_have_a_colour(tmp_path):
    found = bsk.read_labels(drawn(tmp_path / "a.png"), "semantic", ignore_value=255,
                            mapping={"#ff0000": 1, "#0080ff": 255})
    assert np.array_equal(found.ignore, NUMBERS == 2)
    assert np.array_equal(found.array, NUMBERS == 1)


def test_V9_every_colour_that_nobody_named_is_listed_with_its_pixels_and_a_remedy(tmp_path):
    path = drawn(tmp_path / "a.png")
    with pytest.raises(DataError, match="coloured labels") as caught:
        bsk.read_labels(path, "semantic")
    assert "#0080ff (3)" in caught.value.found
    assert "#000000" not in caught.value.found, "black is the background"
    assert "--map '#0080ff=1' --map '#ff0000=2'" in caught.value.remedy
    with pytest.raises(DataError) as caught:
        bsk.read_labels(path, "semantic", mapping={"#ff0000": 1})
    assert "#0080ff (3)" in caught.value.found
    assert "#ff0000 (" not in caught.value.found
    assert "#ff0000" in caught.value.expected


def test_the_remedy_can_be_followed(tmp_path):
    import re

    with pytest.raises(DataError) as caught:
        bsk.read_labels(drawn(tmp_path / "a.png", paint=255 - PAINT), "semantic")
    named = dict(re.findall(r"--map '(#\w+)=(\d+)'", caught.value.remedy))
    found = bsk.read_labels(tmp_path / "a.png", "semantic", mapping=renaming(named))
    assert len(np.unique(found.restored())) == 3
    assert min(named.values()) == "0", "without black the commonest colour is background"


def test_mixed_edges_are_no_colours_to_name(tmp_path):
    shades = np.stack([np.arange(36), np.arange(36) * 2, np.arange(36) * 3], -1).astype(np.uint8).reshape(6, 6, 3)
    PIL.Image.fromarray(shades).save(tmp_path / "a.png")
    with pytest.raises(DataError) as caught:
        bsk.read_labels(tmp_path / "a.png", "semantic", mapping=NAMED)
    assert "35 colours" in caught.value.found
    assert "28 more" in caught.value.found
    assert "--map" not in caught.value.remedy
    assert "smoothing" in caught.value.remedy


def test_grey_in_colours_is_what_it_was_without_names(tmp_path):
    grey = np.repeat(np.array([[0], [1], [255]], np.uint8), 3, axis=1)
    path = drawn(tmp_path / "a.png", paint=grey)
    assert np.array_equal(bsk.read_labels(path, "semantic").restored(), grey[NUMBERS, 0])
    named = {"#ffffff": 1, "#010101": 5, **NAMED}
    assert bsk.read_labels(path, "semantic", mapping=named).restored().tolist() == [[0, 5, 1], [1, 1, 0]]


def test_an_image_of_the_set_that_was_stored_grey_has_the_same_colours(tmp_path):
    PIL.Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "a.png")
    named = {"#ffffff": 3, **NAMED}
    assert bsk.read_labels(tmp_path / "a.png", "semantic", mapping=named).restored().tolist() == [[0, 3]]
    PIL.Image.fromarray(np.array([[0, 77]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="77"):
        bsk.read_labels(tmp_path / "a.png", "semantic", mapping=named)


def test_numbers_that_colours_stand_for_are_numbers_already(tmp_path):
    """So that predictions, which have them, can be compared with a coloured truth."""
    PIL.Image.fromarray(NUMBERS.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(bsk.read_labels(tmp_path / "a.png", "semantic", mapping=NAMED).restored(), NUMBERS)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_palette_has_colours_where_colours_are_named(tmp_path, ending):
    """An index may say anything: here 1 is drawn in the colour that stands for 2."""
    table = np.zeros((256, 3), np.uint8)
    table[[1, 2]] = PAINT[[2, 1]]
    indices = NUMBERS.astype(np.uint8)
    if ending == "png":
        image = PIL.Image.fromarray(indices, "L").convert("P")
        image.putdata(indices.ravel().tolist())
        image.putpalette(table.ravel().tolist())
        image.save(tmp_path / "a.png")
    else:
        tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette",
                         colormap=table.T.astype(np.uint16) * 257)
    path = tmp_path / f"a.{ending}"
    assert np.array_equal(bsk.read_labels(path, "semantic").restored(), NUMBERS)
    assert np.array_equal(bsk.read_labels(path, "semantic", mapping=NAMED).restored(), np.array([0, 2, 1])[NUMBERS])
    with pytest.raises(DataError, match="#ff0000"):
        bsk.read_labels(path, "semantic", mapping={"#0080ff": 1})


def test_colours_of_16_bits_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PAINT[NUMBERS].astype(np.uint16) * 257, photometric="rgb")
    with pytest.raises(DataError, match="uint16"):
        bsk.read_labels(tmp_path / "a.tif", "semantic", mapping=NAMED)


@pytest.mark.parametrize("text", ["#FF0000", "255,0,0", " 255, 0, 0 ", "#ff0000"])
def test_a_colour_is_written_as_programs_show_it(text):
    assert renaming({text: "4"}) == {"#ff0000": 4}


@pytest.mark.parametrize("text", ["#ff00", "#ff00gg", "256,0,0", "1,2", "red", "1.5", "", "-1,0,0"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="#ff0000"):
        renaming({text: 1})
    with pytest.raises(DataError, match="map"):
        Description.from_data({"map": {text: 1}})
    with pytest.raises(OptionError, match="--map"):
        Meaning([f"{text}=1"]).mapping()


def test_what_is_named_twice_or_numbered_by_halves_is_refused():
    with pytest.raises(ValueError, match="twice"):
        renaming({"#ff0000": 1, "255,0,0": 2})
    with pytest.raises(OptionError, match="twice"):
        Meaning(["255=1", "255=2"]).mapping()
    with pytest.raises(OptionError, match="--map"):
        Meaning(["#ff0000=1.5"]).mapping()
    with pytest.raises(DataError, match="map"):
        Description.from_data({"map": {"#ff0000": 1.5}})


def test_names_of_colours_pass_through_json_unchanged():
    about = Description.from_data({"map": {"#FF0000": 1, "255": 2, "-1": 0}})
    assert about.mapping == {"#ff0000": 1, 255: 2, -1: 0}
    table = LabelTable(task="semantic", names=("background", "a"), values=(0, 1), mapping=about.mapping)
    assert LabelTable.model_validate_json(table.model_dump_json()) == table
    assert Meaning(["#ff0000=1", "255=2"]).mapping() == {"#ff0000": 1, 255: 2}


def test_a_set_of_coloured_masks_is_checked_and_its_predictions_are_scored(tmp_path):
    rng = np.random.default_rng(0)
    numbers = np.kron(NUMBERS, np.ones((9, 9), int))
    for folder in ("images", "labels", "predicted"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        PIL.Image.fromarray(rng.integers(0, 99, numbers.shape).astype(np.uint8)).save(tmp_path / f"images/{name}.png")
        drawn(tmp_path / f"labels/{name}.png", numbers)
        PIL.Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / f"predicted/{name}.png")
    refused = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert (refused.exit_code, refused.output.count("V9")) == (1, 2)
    told = ["--map", "#ff0000=1", "--map", "0,128,255=2"]
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), *told])
    assert done.exit_code == 0, done.output
    assert "every case has 2 ids" in done.output
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "predicted"), str(tmp_path), *told, "-o",
                                    str(tmp_path / "scores.json"), "--no-pictures"])
    assert done.exit_code == 0, done.output
    assert bsk.evaluate_folder(tmp_path / "predicted", tmp_path, describe=Description(map=NAMED))["headline"][
        "dice"] == pytest.approx(1)


def objects(shape=(60, 70), number=23, seed=0, touching=True):
    """Numbered objects of squares and discs, some of which touch, and a random colour for each."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros(shape, int)
    y, x = np.indices(shape)
    for k in range(1, number + 1):
        middle = rng.integers(6, shape[0] - 6), rng.integers(6, shape[1] - 6)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < 25
        numbers[inside & (numbers == 0)] = k
    paint = np.zeros((number + 1, 3), np.uint8)
    paint[1:] = rng.choice(255**3, number, replace=False)[:, None] // np.array([1, 255, 255**2]) % 255 + [0, 0, 1]
    return numbers, paint


def partition(array):
    """The objects as sets of voxels, whatever their numbers."""
    return {tuple(np.flatnonzero(array == v)) for v in np.unique(array) if v}


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_every_colour_is_an_object_whose_number_it_is(tmp_path, ending):
    numbers, paint = objects()
    found = bsk.read_labels(drawn(tmp_path / f"a.{ending}", numbers, paint), "instance")
    assert partition(found.array) == partition(numbers)
    assert np.array_equal(found.restored(), (paint.astype(int) @ [65536, 256, 1])[numbers])
    assert (np.diff(found.values) > 0).all(), "ids rise with the colour, so they do not depend on where objects are"
    present = len(np.unique(numbers)) - 1
    assert f"labels drawn in colours: {present} objects, each colour one" in found.notes


def test_planes_of_a_stack_hold_the_same_objects(tmp_path):
    numbers, paint = objects()
    stack = np.stack([numbers, np.roll(numbers, 1, axis=0)])
    tifffile.imwrite(tmp_path / "a.tif", paint[stack], photometric="rgb", metadata={"axes": "ZYXS"})
    assert partition(bsk.read_labels(tmp_path / "a.tif", "instance").array) == partition(stack)


def test_objects_of_one_colour_are_one(tmp_path):
    numbers, paint = objects()
    paint[2] = paint[1]
    found = bsk.read_labels(drawn(tmp_path / "a.png", numbers, paint), "instance")
    assert partition(found.array) == partition(np.where(numbers == 2, 1, numbers))


def test_background_and_ignored_voxels_of_objects_can_be_named(tmp_path):
    numbers, paint = objects()
    paint[0], paint[3] = (255, 255, 255), (128, 128, 128)
    path = drawn(tmp_path / "a.png", numbers, paint)
    named = {"#ffffff": 0, "#808080": 255}
    found = bsk.read_labels(path, "instance", ignore_value=255, mapping=named)
    assert np.array_equal(found.ignore, numbers == 3)
    assert partition(found.array) == partition(np.where(numbers == 3, 0, numbers))


@pytest.mark.parametrize("ground", [(255, 255, 255), (9, 80, 200)])
def test_background_that_is_not_black_is_asked_for(tmp_path, ground):
    numbers, paint = objects()
    paint[0] = ground
    path = drawn(tmp_path / "a.png", numbers, paint)
    code = "#{:02x}{:02x}{:02x}".format(*ground)
    with pytest.raises(DataError, match="which of the two is background") as caught:
        bsk.read_labels(path, "instance")
    assert f"--map '{code}=0'" in caught.value.remedy
    assert partition(bsk.read_labels(path, "instance", mapping={code: 0}).array) == partition(numbers)
    assert partition(bsk.read_labels(path, "instance", mapping={"#000000": 0}).array) == partition(numbers + 1)


def test_objects_that_fill_the_image_need_no_background(tmp_path):
    numbers = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8), int))
    paint = objects()[1][1:]
    found = bsk.read_labels(drawn(tmp_path / "a.png", numbers, paint), "instance")
    assert partition(found.array) == partition(numbers + 1)
    assert found.notes[-1].endswith("12 objects, each colour one, no background")


@pytest.mark.parametrize("how", ["jpeg", "smooth", "lanczos"])
def test_V9_edges_that_were_mixed_are_refused(tmp_path, how):
    numbers, paint = objects()
    picture = PIL.Image.fromarray(paint[numbers])
    if how == "jpeg":
        picture.save(tmp_path / "a.jpg", quality=90)
        picture = PIL.Image.open(tmp_path / "a.jpg")
    elif how == "smooth":
        big = PIL.Image.fromarray(np.kron(paint[numbers], np.ones((4, 4, 1), np.uint8)))
        picture = big.resize((picture.width, picture.height), PIL.Image.Resampling.BOX, box=(1, 2, 274, 238))
    else:
        picture = picture.resize((91, 77), PIL.Image.Resampling.LANCZOS)
    picture.save(tmp_path / "a.png")
    with pytest.raises(DataError, match="mixed by smoothing") as caught:
        bsk.read_labels(tmp_path / "a.png", "instance")
    assert int(caught.value.found.split(" colours")[0].split()[-1]) == len(
        np.unique(np.asarray(picture).reshape(-1, 3), axis=0))


def test_small_objects_and_lines_are_not_taken_for_mixed_edges(tmp_path):
    """Discs of radius 2, rods one pixel wide, straight and oblique, and one speck."""
    numbers = np.zeros((64, 64), int)
    y, x = np.indices(numbers.shape)
    for k in range(1, 8):
        numbers[(y - 6) ** 2 + (x - 8 * k) ** 2 <= 4] = k
        numbers[20 + k * 2, 3:60] = 7 + k
        numbers[40 + np.arange(16), 4 + 6 * k + np.arange(16) // 2] = 14 + k
    numbers[62, 62] = 22
    _, paint = objects(number=22)
    found = bsk.read_labels(drawn(tmp_path / "a.png", numbers, paint), "instance")
    assert partition(found.array) == partition(numbers)


def test_nearest_neighbour_mixes_nothing(tmp_path):
    numbers, paint = objects()
    picture = PIL.Image.fromarray(paint[numbers]).resize((101, 47), PIL.Image.Resampling.NEAREST)
    picture.save(tmp_path / "a.png")
    truth = PIL.Image.fromarray(numbers.astype(np.uint8)).resize((101, 47), PIL.Image.Resampling.NEAREST)
    assert partition(bsk.read_labels(tmp_path / "a.png", "instance").array) == partition(np.asarray(truth))


def test_no_colour_stands_for_a_number_that_means_something_else(tmp_path):
    numbers, paint = objects()
    paint[5] = (0, 0, 255)
    path = drawn(tmp_path / "a.png", numbers, paint)
    with pytest.raises(DataError, match="#0000ff") as caught:
        bsk.read_labels(path, "instance", ignore_value=255)
    name, number = caught.value.remedy.split("'")[1].split("=")
    found = bsk.read_labels(path, "instance", ignore_value=255, mapping=renaming({name: number}))
    assert partition(found.array) == partition(numbers)
    with pytest.raises(DataError, match="#0000ff"):
        bsk.read_labels(path, "instance", mapping={"#{:02x}{:02x}{:02x}".format(*paint[1]): 255})


def test_palettes_and_greys_are_objects_too_where_colours_are_named(tmp_path):
    numbers, paint = objects()
    paint[0] = 255
    picture = PIL.Image.fromarray(numbers.astype(np.uint8), "L").convert("P")
    picture.putdata(numbers.ravel().tolist())
    picture.putpalette(np.pad(paint, ((0, 256 - len(paint)), (0, 0))).ravel().tolist())
    picture.save(tmp_path / "a.png")
    found = bsk.read_labels(tmp_path / "a.png", "instance", mapping={"#ffffff": 0})
    assert partition(found.array) == partition(numbers)
    PIL.Image.fromarray(np.where(numbers, numbers, 255).astype(np.uint8)).save(tmp_path / "a.png")
    found = bsk.read_labels(tmp_path / "a.png", "instance", mapping={"#ffffff": 0})
    assert partition(found.array) == partition(numbers)


def coloured_set(folder, cases=4, same=False):
    """Images with objects in random colours, in the same ones if asked; the numbers of each."""
    found = {}
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for k in range(cases):
        numbers, paint = objects(number=12 + 3 * k, seed=k)
        if same:
            paint[1:] = objects(number=99)[1][1 : len(paint)]
        noisy = np.random.default_rng(k).integers(0, 40, numbers.shape) + 150 * (numbers > 0)
        PIL.Image.fromarray(noisy.astype(np.uint8)).save(folder / f"images/{k}.png")
        drawn(folder / f"labels/{k}.png", numbers, paint)
        found[str(k)] = numbers
    return found


def test_the_doctor_finds_objects_by_their_colours_and_says_so(tmp_path):
    truth = coloured_set(tmp_path)
    said = [p for p in bsk.diagnose(bsk.scan(tmp_path)) if p.code == "V9"]
    first = len(np.unique(truth["0"])) - 1
    assert [(p.severity, p.found) for p in said] == [
        ("warning", f"labels drawn in colours: {first} objects, each colour one (and 3 more cases)")]
    assert CliRunner().invoke(app, ["doctor", str(tmp_path)]).exit_code == 0
    measured = bsk.measure(bsk.scan(tmp_path))
    assert measured.task == "instance"
    assert [case.ids for case in measured.cases] == [len(np.unique(numbers)) - 1 for numbers in truth.values()]


def test_colours_that_recur_are_refused_until_it_is_said_what_they_are(tmp_path):
    """Classes have the same colours in every image; so have objects, if a program takes its colours in turn."""
    truth = coloured_set(tmp_path, same=True)
    refused = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert (refused.exit_code, refused.output.count("that nobody named")) == (1, 4)
    assert "--task instance" in refused.output
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--task", "instance"])
    assert done.exit_code == 0, done.output
    dataset = bsk.scan(tmp_path, describe=Description(task="instance"))
    assert all(partition(dataset.load_labels(case, "instance").array) == partition(truth[case.id]) for case in dataset)


def test_a_truth_in_colours_is_compared_with_numbered_objects(tmp_path):
    truth = coloured_set(tmp_path)
    (tmp_path / "found").mkdir()
    for name, numbers in truth.items():
        PIL.Image.fromarray(np.where(numbers == 3, 0, numbers).astype(np.uint8)).save(tmp_path / f"found/{name}.png")
    scores = bsk.evaluate_folder(tmp_path / "found", tmp_path)["headline"]
    there = sum(len(np.unique(numbers)) - 1 for numbers in truth.values())
    missed = sum((numbers == 3).any() for numbers in truth.values())
    assert scores["ap@0.50"] == pytest.approx(1 - missed / there)
