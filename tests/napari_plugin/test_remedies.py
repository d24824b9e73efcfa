"""What is said in the viewer names what can be done there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import biosegkit
from biosegkit.errors import DataError


@pytest.mark.parametrize(("remedy", "said"), [
    ("correct --option channel", "correct option channel (in the row options)"),
    ("give a larger --option diameter, or a part of the image",
     "give a larger option diameter, or a part of the image (in the row options)"),
    ("flows of a stack are not checked, as in Cellpose; --threshold flow_error=0.4 checks them",
     "flows of a stack are not checked, as in Cellpose; threshold flow_error=0.4 (Tune) checks them"),
    ("give --pixel-size in µm, or --spacing and --unit", "give the voxel size"),
    ("give it: --pixel-size 0.25 for 0.25 um", "give the voxel size, such as 0.25 um"),
    ("continue it with --resume or replace it with --overwrite", "continue it with Resume, or choose another folder"),
    ("give --budget 3m or more", "give a time of 3m or more"),
    ("give --budget 3m or more, and --overwrite", "give a time of 3m or more"),
    ("give more with --memory", "give more memory"),
    ("close other programs, or plan again with less --memory", "close other programs, or plan again with less memory"),
    ("begin with another model, or leave --from out", "begin with another model, or begin with nothing: a new network"),
    ("--map -3=0", "give the voxels of -3 the value 0, the background, or another"),
    ("correct --where", "correct --where (an option of the command line)"),
    ("choose another layer", "choose another layer"),
])
def test_options_of_the_command_line_become_rows(napari, remedy, said):
    from biosegkit_napari.remedies import in_words, told

    assert in_words(remedy) == said
    assert told(DataError("x", file="a", expected="y", remedy=remedy)) == f"a: found x; expected y. {said}"
    assert told(ValueError("--option")) == "--option"


def test_no_remedy_of_an_engine_leaves_an_option_of_the_command_line(napari):
    from biosegkit_napari.remedies import in_words

    texts = [text for path in (Path(biosegkit.__file__).parent / "engines").glob("*.py")
             for text in re.findall(r'"([^"\n]*--[a-z][^"\n]*)"', path.read_text(encoding="utf-8"))]
    assert len(texts) > 10
    left = [text for text in texts if "command line" in in_words(text)]
    assert left == ["leave out --depth"], "which the viewer does not give"


def test_a_file_that_needs_options_is_opened_on_the_command_line(napari, tmp_path):
    import tifffile
    from biosegkit_napari._reader import read_layers

    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 4, 5, 6, 7, 8), np.uint8))
    with pytest.raises(DataError, match=r"biosegkit view stack\.tif opens it with options: .*--axes"):
        read_layers(str(tmp_path / "stack.tif"))
