"""The ledger of a batch, and batches in any order of mishaps against a model of what must be there."""

import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from batch_tasks import Alone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from biosegkit._atomic import sha256
from biosegkit.batch import run
from biosegkit.batch.engine import Staff
from biosegkit.batch.ledger import FILE, SCHEMA, open_ledger
from biosegkit.batch.tasks import Opening
from biosegkit.errors import FileError, PlanError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import read_labels, write
from biosegkit.records import Outcome

FAILED = Outcome("in/b.tif", "out/b.tif", "failed", "cut", 2.0, trace="Traceback\n" * 2000)


def begun(ledger):
    ledger.begin({"model": "m", "model_hash": "0", "options": {"tta": True}},
                 [("in/a.tif", "a.tif"), ("in/b.tif", "b.tif")])


def test_what_became_of_every_image_is_written_down(tmp_path):
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
        ledger.start("a.tif")
        assert ledger.rows("SELECT state FROM images") == [("running",), ("waiting",)]
        ledger.finish(Outcome("in/a.tif", "out/a.tif", "done", None, 1.5, 7, ("note",),
                              {"input": {"a.tif": "1"}, "model": "0", "options": "2"}), "a.tif")
        ledger.finish(FAILED, "b.tif")
        ledger.block("a.tif", "infer", 3, state="done", seconds=0.5, worker="here:1")
        ledger.end("failed")
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT output, input, run, state, input_hash, model_hash, options_hash, seconds, "
                                "objects, error, notes FROM images").fetchall() == [
            ("a.tif", "in/a.tif", 1, "done", '{"a.tif": "1"}', "0", "2", 1.5, 7, None, "note"),
            ("b.tif", "in/b.tif", 1, "failed", None, None, None, 2.0, None, "cut", "")]
        assert database.execute("SELECT traceback FROM images").fetchall() == [(None,), (FAILED.trace,)]
        (run,) = database.execute("SELECT state, model, options FROM runs").fetchall()
        assert run == ("failed", "m", '{"tta": true}')
        assert database.execute("SELECT number, state FROM blocks").fetchall() == [(3, "done")]


def test_a_run_that_was_killed_is_told_from_one_that_ended(tmp_path):
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
        ledger.start("a.tif")  # and killed: nothing more is said
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
        assert ledger.rows("SELECT state FROM runs") == [("broken off",), ("running",)]
        assert ledger.rows("SELECT state, run FROM images") == [("waiting", 2), ("waiting", 2)]
        ledger.start("a.tif")
        ledger.end("stopped")
        assert ledger.rows("SELECT state FROM images") == [("waiting",), ("waiting",)]
    with open_ledger(tmp_path, anew=True) as ledger:
        assert ledger.rows("SELECT count(*) FROM runs") == [(0,)]


def test_F7_a_full_disk_is_an_error_that_says_what_to_do(tmp_path):
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
        (pages,) = ledger.rows("PRAGMA page_count")
        ledger.rows(f"PRAGMA max_page_count = {pages[0] + 2}")
        with pytest.raises(FileError, match=r"full.*--resume"):
            ledger.finish(FAILED, "b.tif")
        assert ledger.rows("SELECT state FROM images") == [("waiting",), ("waiting",)]


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda data: b"no ledger", lambda data: b"",
                                    lambda data: data[:4096] + bytes(4096) + data[8192:]])
def test_F9_a_damaged_ledger_is_put_aside(tmp_path, damage):
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
    (tmp_path / FILE).write_bytes(damage((tmp_path / FILE).read_bytes()))
    with open_ledger(tmp_path) as ledger:
        begun(ledger)
        assert ledger.rows("SELECT id FROM runs") == [(1,)]
    assert (tmp_path / f"damaged-{FILE}").exists()


def test_X5_a_ledger_of_a_newer_version_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(PlanError, match=f"schema {SCHEMA + 1}"), open_ledger(tmp_path):
        pytest.fail("opened")


class Batches(RuleBasedStateMachine):
    """Batches that are run, killed, damaged and resumed: what is there is right, and nothing is done twice."""

    NAMES = ("a", "b", "c")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.version = dict.fromkeys(self.NAMES, 0)
        self.made: dict[str, tuple] = {}  # output → what it was made from
        self.option = "1"

    def teardown(self):
        shutil.rmtree(self.folder)

    @property
    def out(self):
        return self.folder / "out"

    def batch(self, crash=None, **options):
        @contextmanager
        def alone(staff):
            yield Alone(crash)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "employ", alone)
            opening = Opening("otsu", "cpu", (("sigma", "0"), ("min_size", self.option)))
            return run.predict_batch(opening, self.folder / "in", self.out, Staff(1), **options)

    def wanted(self, name):
        return (self.version[name], self.option)

    @initialize()
    def images(self):
        for name in self.NAMES:
            self.edit(name)

    @rule(name=st.sampled_from(NAMES))
    def edit(self, name):
        self.version[name] += 1
        values = np.zeros((1, 8, 8), np.uint8)
        values[0, : 1 + self.version[name] % 6, 2:5] = 200
        values[0, 7, 7] = 200
        write(Image(values, Grid.regular((8, 8))), self.folder / f"in/{name}.tif")

    @rule(option=st.sampled_from(["1", "2"]))
    def choose(self, option):
        self.option = option

    @rule(name=st.sampled_from(NAMES), what=st.sampled_from([".tif", ".tif.json", "damage"]))
    def lose(self, name, what):
        if what == "damage" and (self.out / f"{name}.tif").exists():
            (self.out / f"{name}.tif").write_bytes(b"damage")
        elif what != "damage":
            (self.out / f"{name}{what}").unlink(missing_ok=True)
        self.made.pop(name, None)

    @rule(crash=st.integers(0, 2))
    def killed(self, crash):
        with pytest.raises(KeyboardInterrupt):
            self.batch(crash, resume=True)
        for name in self.NAMES[:crash]:
            self.made[name] = self.wanted(name)

    @rule()
    def resume(self):
        found = self.batch(resume=True)
        for outcome, name in zip(found, self.NAMES, strict=True):
            assert outcome.state == ("kept" if self.made.get(name) == self.wanted(name) else "done")
            self.made[name] = self.wanted(name)

    @precondition(lambda self: self.out.exists())
    @rule()
    def anew_is_refused(self):
        with pytest.raises(FileError, match="output that exists"):
            self.batch()

    @invariant()
    def what_is_there_is_right(self):
        for name, (version, option) in self.made.items():
            labels = read_labels(self.out / f"{name}.tif", "instance")
            assert labels.count == 1 + (option == "1")
            assert np.count_nonzero(labels.array[:, 2:5]) == 3 * (1 + version % 6)
            assert len(sha256(self.out / f"{name}.tif.json")) == 64
        assert not (self.out / "lock").exists()
        assert not (self.out / "failures.csv").exists()


TestBatches = Batches.TestCase
TestBatches.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
