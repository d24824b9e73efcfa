"""Numbers and their nouns: no message says "1 cases"."""

from __future__ import annotations

import re

import pytest
import tifffile
from small_sets import discs
from stub_models import stub_plan
from typer.testing import CliRunner

from biosegkit._words import agreeing, counted
from biosegkit.cli import app
from biosegkit.description import Description
from biosegkit.errors import DataError, PlanError
from biosegkit.plan.schema import Plan


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


@pytest.mark.parametrize(("change", "message"), [
    ({"trainign": {}}, r"unknown entry trainign \(did you mean training\?\)"),
    ({"training": {"stepps": 3}}, r"unknown entry training\.stepps \(did you mean steps\?\)"),
    ({"zzzzzz": 1}, "unknown entry zzzzzz; expected"),
])
def test_every_wrong_entry_of_a_plan_is_named_with_the_nearest_right_one(change, message):
    data = stub_plan(2).model_dump(mode="json")
    wrong = data | {k: {**data[k], **v} if isinstance(v, dict) and k in data else v for k, v in change.items()}
    with pytest.raises(PlanError, match=message):
        Plan.from_data(wrong)
    del wrong["method"]
    with pytest.raises(PlanError, match=f"no entry method; {message.split(';')[0]}"):
        Plan.from_data(wrong)


def test_a_wrong_value_of_a_description_is_shown(tmp_path):
    with pytest.raises(DataError, match="task 'objects', not 'semantic' or 'instance'"):
        Description.from_data({"task": "objects"})
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--task", "objects"])
    assert result.exit_code == 2
    assert "task 'objects'" in " ".join(result.output.split())
