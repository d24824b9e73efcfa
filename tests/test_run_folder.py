"""The run folder: one process at a time, and the same run or none."""

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
from small_sets import changed, tiny_plan, write_instances

from biosegkit.cases import scan
from biosegkit.description import Description
from biosegkit.errors import FileError, ResumeError
from biosegkit.run_folder import asked_of, begun, locked, open_run, update_run


@pytest.fixture
def dataset(tmp_path):
    return write_instances(tmp_path / "data", cases=2, shape=(16, 16))


def begin(out, plan, dataset, **options):
    open_run(out, plan, dataset, **{"resume": False, "overwrite": False, **options})


# --- F8 --------------------------------------------------------------------------------------------------------------


def hold(folder, seconds=60):
    """Another process that holds the folder."""
    code = ("import sys, time; from pathlib import Path; from biosegkit.run_folder import locked\n"
            f"with locked(Path({str(folder)!r})): print('held', flush=True); time.sleep({seconds})")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    return child


def test_F8_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    child = hold(tmp_path)
    try:
        told = f"in use by process {child.pid} on {socket.gethostname()}"
        with pytest.raises(FileError, match=told), locked(tmp_path):
            pytest.fail("two processes in one folder")
        assert (tmp_path / "lock").exists()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())
    assert not (tmp_path / "lock").exists()


def test_F8_a_second_thread_of_this_process_is_refused_too(tmp_path):
    with locked(tmp_path), pytest.raises(FileError, match="in use"), locked(tmp_path):
        pytest.fail("twice in one folder")


@pytest.mark.parametrize(("text", "free"), [
    ("{host} {me} 5", True),  # our number, but of a process that began in 1970: a container started again
    ("{host} 999999999 5", True), ("elsewhere {me} {born}", False), ("", False), ("{host} {me} {born}", False),
])
def test_F8_a_lock_is_taken_over_only_from_a_process_that_is_gone(tmp_path, text, free):
    born = f"{psutil.Process().create_time():.0f}"
    (tmp_path / "lock").write_text(text.format(host=socket.gethostname(), me=os.getpid(), born=born))
    if free:
        with locked(tmp_path):
            pass
    else:
        with pytest.raises(FileError, match=r"remove .*lock"), locked(tmp_path):
            pytest.fail("taken")


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "new"):
        raise KeyError
    assert list((tmp_path / "new").iterdir()) == []


# --- P3 --------------------------------------------------------------------------------------------------------------


def test_the_same_run_goes_on(tmp_path, dataset):
    plan, out = tiny_plan(), tmp_path / "run"
    begin(out, plan, dataset, facts={"device": "cpu"})
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    begin(out, plan, dataset, resume=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    update_run(out, seconds=3.5)
    assert json.loads((out / "run.json").read_text())["device"] == "cpu"
    assert json.loads((out / "run.json").read_text())["seconds"] == 3.5


ASKED = {"budget": "5m", "folds": "0,1", "origin": "somewhere/old"}


def test_P1_a_run_can_be_continued_from_the_first_moment_on(tmp_path, dataset):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), begun(out, ASKED, resume=False):
        raise KeyboardInterrupt
    assert asked_of(out) == ASKED
    with begun(out, None, resume=True):
        begin(out, tiny_plan(), dataset, resume=True)
    assert asked_of(out) == {**ASKED, "origin": None}  # what a path named is known by its hash
    begin(out, tiny_plan(), dataset, resume=True)


@pytest.mark.parametrize("there", [False, True])
def test_a_command_that_was_refused_leaves_the_place_free(tmp_path, there):
    out = tmp_path / "run"
    if there:
        out.mkdir()
    with pytest.raises(FileError), begun(out, ASKED, resume=False):
        raise FileError("damage", file="a.tif")
    assert out.exists() == there
    assert not there or not list(out.iterdir())


def test_a_mark_is_no_run_that_could_be_lost(tmp_path, dataset):
    out = tmp_path / "run"
    with begun(out, ASKED, resume=False):
        begin(out, tiny_plan(), dataset)
    before = (out / "run.json").read_bytes()
    with pytest.raises(FileError, match="existing run"), begun(out, {}, resume=False):
        begin(out, tiny_plan(), dataset)
    assert (out / "run.json").read_bytes() == before


def test_an_existing_run_is_refused(tmp_path, dataset):
    begin(tmp_path / "run", tiny_plan(), dataset)
    with pytest.raises(FileError, match="--resume or replace it with --overwrite"):
        begin(tmp_path / "run", tiny_plan(), dataset)
    begin(tmp_path / "run", tiny_plan(steps=9), dataset, overwrite=True)


def test_overwrite_never_empties_the_folder_of_the_data(tmp_path, dataset):
    """A data set has a ``cases.csv``, as runs have, and may have a plan beside it."""
    home = tmp_path / "data"
    (home / "cases.csv").write_text("image,label")
    files = sorted(home.rglob("*"))
    with pytest.raises(FileError, match="holds the data"):
        begin(home, tiny_plan(), dataset, overwrite=True)
    other = write_instances(tmp_path / "other", cases=1, shape=(16, 16))
    with pytest.raises(FileError, match="is no run"):
        begin(home, tiny_plan(), other, overwrite=True)
    with pytest.raises(ResumeError, match="no run to continue"):
        begin(home, tiny_plan(), dataset, resume=True)
    tiny_plan().write(tmp_path / "plan.json")
    with pytest.raises(FileError, match="holds the data"):
        begin(tmp_path, tiny_plan(), dataset, overwrite=True)
    assert sorted(home.rglob("*")) == files


@pytest.mark.parametrize(("change", "told"), [
    ({"learning_rate": 0.5}, r"training\.learning_rate \(0\.003 then, 0\.5 now\)"),
    ({"steps": 5}, r"training\.steps \(4 then, 5 now\)"),
])
def test_P3_another_plan_is_refused_with_the_difference(tmp_path, dataset, change, told):
    begin(tmp_path / "run", tiny_plan(), dataset)
    with pytest.raises(ResumeError, match=told + ".*--from"):
        begin(tmp_path / "run", changed(tiny_plan(), **change), dataset, resume=True)


def test_P3_reasons_and_measured_seconds_are_no_difference(tmp_path, dataset):
    plan = tiny_plan()
    begin(tmp_path / "run", plan, dataset)
    budget = plan.budget.model_copy(update={"step_seconds": 1.5})
    begin(tmp_path / "run", plan.model_copy(update={"budget": budget}), dataset, resume=True)


def test_P3_other_data_are_refused_with_the_first_difference(tmp_path, dataset):
    begin(tmp_path / "run", tiny_plan(), dataset)
    path = dataset[1].images[0]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ResumeError, match="other data, first difference: c1"):
        begin(tmp_path / "run", tiny_plan(), dataset, resume=True)
    with pytest.raises(ResumeError, match="1 case;"):
        begin(tmp_path / "run", tiny_plan(), scan(tmp_path / "data")[:1], resume=True)


def test_P3_the_same_files_read_otherwise_are_other_data(tmp_path, dataset):
    """An edited dataset.json or another --map changes what the labels mean, not the files."""
    begin(tmp_path / "run", tiny_plan(), dataset)
    other = scan(tmp_path / "data", describe=Description.from_data({"map": {"2": 0}, "spacing": [1, 1], "unit": "um"}))
    begin(tmp_path / "other", tiny_plan(), other)
    begin(tmp_path / "other", tiny_plan(), other, resume=True)
    with pytest.raises(ResumeError, match=r"described otherwise: .*mapping\.2 \(None then, 0 now\)"):
        begin(tmp_path / "run", tiny_plan(), other, resume=True)


def test_P3_another_version_is_refused(tmp_path, dataset):
    begin(tmp_path / "run", tiny_plan(), dataset)
    about = json.loads((tmp_path / "run/run.json").read_text())
    update_run(tmp_path / "run", versions={**about["versions"], "biosegkit": "0.0.1"})
    with pytest.raises(ResumeError, match=r"expected biosegkit 0\.0\.1"):
        begin(tmp_path / "run", tiny_plan(), dataset, resume=True)


def test_S8_no_folder_of_the_machine_is_in_the_run(tmp_path, dataset):
    begin(tmp_path / "run", tiny_plan(), dataset)
    for path in (tmp_path / "run").iterdir():
        assert str(tmp_path) not in path.read_text()
