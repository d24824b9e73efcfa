"""Numbers and their nouns: no message says "1 cases"."""

from __future__ import annotations

import re

import pytest
import tifffile
from small_sets import discs
from typer.testing import CliRunner

from biosegkit._words import agreeing, counted
from biosegkit.cli import app


@pytest.mark.parametrize(("noun", "many"), [
    ("case", "cases"), ("patch", "patches"), ("class", "classes"), ("entry", "entries"), ("ray", "rays"),
    ("axis", "axes"), ("held-back case", "held-back cases"), ("box", "boxes"), ("spatial axis", "spatial axes")])
def test_one_is_singular_and_all_else_plural(noun, many):
    assert [counted(n, noun) for n in (0, 1, 2, 11)] == [f"0 {many}", f"1 {noun}", f"2 {many}", f"11 {many}"]
    assert agreeing(1, noun) == noun


def test_doctor_of_one_case(tmp_path):
    image, labels = discs((32, 32))
    for kind, array in (("images", image), ("labels", labels)):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", array)
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--task", "instance"])
    assert "1 case in " in result.output
    assert "0 errors" in result.output
    assert not re.search(r"\b1 (cases|errors|warnings|channels|objects)\b", result.output)
