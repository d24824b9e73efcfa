"""Labels drawn in colours: each colour named stands for its number, and no colour is guessed (V9)."""

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
