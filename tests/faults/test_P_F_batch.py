"""Batches by worker processes: an image, a worker, a run or a disk that fails costs nothing else."""

import json
import os
import re
import signal
import sqlite3
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from batch_tasks import Alone, dying_image_task, limit_files
from stub_models import fresh_weights, image, stub_plan
from typer.testing import CliRunner

from biosegkit._atomic import sha256
from biosegkit.batch import chains, engine, run
from biosegkit.batch.engine import Staff, employ, refuse_others
from biosegkit.batch.ledger import FILE
from biosegkit.batch.run import predict_batch
from biosegkit.batch.tasks import Claim, Errand, Opening, absolute, image_task, opened
from biosegkit.bundle import load, write_bundle
from biosegkit.cli import app
from biosegkit.errors import FileError, OptionError, PlanError, Stopped
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.inputs import find_jobs
from biosegkit.io import ReadOptions, write
from biosegkit.predict import predict_files
from biosegkit.records import Wish

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
TWO = Staff(workers=2)


@pytest.fixture(scope="module")
def crew():
    """Two worker processes for all tests of this module."""
    with employ(TWO) as hired:
        yield hired


@pytest.fixture(autouse=True)
def hired(crew, monkeypatch):
    """Batches get the crew that is there."""
    @contextmanager
    def at_hand(staff):
        assert staff == TWO
        yield crew

    monkeypatch.setattr(run, "employ", at_hand)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A model and three images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    plan = stub_plan(2, scheme="zscore")
    write_bundle("model", plan, {"0": fresh_weights(plan)})
    for name in "abc":
        add(name)
    return Opening("model", "cpu")


def add(name, shape=(20, 17), seed=None):
    im = image(shape, seed=ord(name[0]) if seed is None else seed, top=255)
    Path("in").mkdir(exist_ok=True)
    write(Image(im.array.astype(np.uint8), Grid.regular(shape)), f"in/{name}.tif")


def hashes(folder, *without):
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(Path(folder).rglob("*"))
            if p.is_file() and p.name not in (FILE, "report.html", *without)}


def states(outcomes):
    return {Path(o.input).stem: o.state for o in outcomes}


def ledger(query, folder="out"):
    with sqlite3.connect(f"file:{folder}/{FILE}?mode=ro", uri=True) as database:
        return database.execute(query).fetchall()


def test_P2_workers_write_what_one_process_writes_and_a_corrupt_image_fails_alone(files):
    Path("in/bad.tif").write_bytes(Path("in/a.tif").read_bytes()[:100])
    Path("in/sub").mkdir()
    Path("in/sub/a.tif").write_bytes(Path("in/b.tif").read_bytes())
    with pytest.MonkeyPatch.context() as threads:
        threads.setattr("torch.get_num_threads", lambda: 1)  # the record names them
        here = predict_files(load("model", "cpu"), "in", "here", options=Wish().reading)
    seen = []
    there = predict_batch(files, "in", "out", TWO, progress=lambda s, o: seen.append((s.ended, s.failed, o)))
    assert states(there) == states(here) == {"a": "done", "b": "done", "c": "done", "bad": "failed"}
    assert [o.output.replace("out/", "here/") for o in there] == [o.output for o in here]
    assert hashes("out", "failures.csv") == hashes("here", "failures.csv")
    assert Path("out/failures.csv").read_text() == Path("here/failures.csv").read_text().replace("here/", "out/")
    assert [o for *_, o in seen if o is not None] != []
    assert seen[-1][:2] == (5, 1)
    ((state, hashed, trace, error),) = ledger(
        "SELECT state, input_hash, traceback, error FROM images WHERE output = 'bad.tif'")
    assert state == "failed"
    assert sha256("in/bad.tif") in hashed
    assert error.startswith("in/bad.tif: found")
    assert "Traceback" in trace
    assert ledger("SELECT state, model_hash FROM runs") == [("failed", load("model", "cpu").digest)]


def test_P2_resume_of_a_batch_redoes_only_what_does_not_match(files):
    predict_batch(files, "in", "out", TWO)
    before = hashes("out")
    Path("out/a.tif").write_bytes(Path("out/a.tif").read_bytes()[:-1] + b"?")
    Path("out/b.tif.json").unlink()
    Path("out/.99.partial.0123456789ab.tif").write_bytes(b"of a killed process")
    found = predict_batch(files, "in", "out", TWO, resume=True)
    assert states(found) == {"a": "done", "b": "done", "c": "kept"}
    assert hashes("out") == before
    assert ledger("SELECT id, state FROM runs") == [(1, "done"), (2, "done")]
    assert dict(ledger("SELECT output, run FROM images")) == {"a.tif": 2, "b.tif": 2, "c.tif": 2}
    add("a", seed=5)
    assert states(predict_batch(files, "in", "out", TWO, resume=True)) == {"a": "done", "b": "kept", "c": "kept"}
    found = predict_batch(files, "in", "out", TWO, resume=True, wish=Wish(tta=True))
    assert set(states(found).values()) == {"done"}


def test_P4_a_worker_that_dies_is_replaced_and_only_the_image_that_kills_it_fails(files, monkeypatch):
    monkeypatch.setattr(chains, "image_task", dying_image_task)
    for name in ("killer", "once"):
        add(name)
    found = predict_batch(files, "in", "out", TWO)
    assert states(found) == {"a": "done", "b": "done", "c": "done", "once": "done", "killer": "failed"}
    (error,) = [o.error for o in found if o.error]
    assert error.startswith("in/killer.tif: the process died every time")
    assert Path("in/once.died").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_P8_a_signal_ends_what_runs_and_resume_does_the_rest(files, number):
    for name in "defgh":
        add(name)
    outcomes = []

    def progress(standing, outcome):
        if outcome is not None:
            outcomes.append(outcome)
            if len(outcomes) == 1:
                signal.raise_signal(number)

    with pytest.raises(Stopped, match="--resume") as stopped:
        predict_batch(files, "in", "out", TWO, progress=progress)
    assert stopped.value.signal == number
    done = {Path(o.output).name for o in outcomes}
    assert 1 <= len(done) < 8
    assert {p.name for p in Path("out").glob("*.tif")} == done
    assert dict(ledger("SELECT state, count(*) FROM images GROUP BY state")) == {"done": len(done),
                                                                                 "waiting": 8 - len(done)}
    assert ledger("SELECT state FROM runs") == [("stopped",)]
    page = Path("out/report.html").read_text("utf-8")
    assert "did not come to its end</b> (stopped)" in page
    assert f"{len(done)} of 8 images done, {8 - len(done)} not done yet" in page
    assert page.count("<td>not begun</td>") == 8 - len(done)
    found = predict_batch(files, "in", "out", TWO, resume=True)
    assert {Path(o.output).name for o in found if o.state == "kept"} == done
    page = Path("out/report.html").read_text("utf-8")
    assert "did not come to its end" not in page
    assert "Not done" not in page


def test_F8_two_batches_in_one_folder_exclude_each_other(files):
    refused = []

    def second(standing, outcome):
        if not refused:
            with pytest.raises(FileError, match="in use by process"):
                predict_batch(files, "in", "out", TWO, resume=True)
            refused.append(True)

    predict_batch(files, "in", "out", TWO, progress=second)
    assert refused == [True]
    assert not Path("out/lock").exists()


def test_F8_a_worker_of_a_batch_that_is_gone_touches_nothing(files):
    predict_batch(files, "in", "out", TWO)
    before = hashes("out")
    job = absolute(find_jobs("in/a.tif", Path("out"))[0])
    Path("out/lock").write_text("other 1 2")
    errand = Errand(files, Wish(tta=True), Claim(str(Path("out").absolute()), "mine 1 2"))
    gone = image_task(errand, job, None)
    assert gone.state == "failed"
    assert "took the folder over" in gone.error
    Path("out/lock").unlink()
    unseen = image_task(errand, job, None)
    assert "share the disk" in unseen.error
    assert hashes("out") == before
    with pytest.raises(PlanError, match=r"biosegkit .* in a worker"):
        Claim("out", "mine", "0.0.1").check()


def test_F7_a_full_disk_costs_the_images_that_do_not_fit(files, crew):
    add("large", (200, 300))
    (before, *_) = crew.client.run(limit_files, 4000).values()
    try:
        found = predict_batch(files, "in", "out", TWO)
    finally:
        crew.client.run(limit_files, before)
    assert states(found) == {"a": "done", "b": "done", "c": "done", "large": "failed"}
    (error,) = [o.error for o in found if o.error]
    assert "out/large.tif: found cannot write: File too large" in error
    assert {p.name for p in Path("out").iterdir() if not p.name.startswith(tuple("abc"))} == {FILE, "failures.csv",
                                                                                         "report.html"}
    assert states(predict_batch(files, "in", "out", TWO, resume=True))["large"] == "done"
    assert not Path("out/failures.csv").exists()


def test_F7_an_output_that_cannot_be_written_is_refused_before_anything_runs(files):
    Path("file").write_text("")
    for out in ("file/out", "/proc/out"):
        with pytest.raises(FileError, match=r"cannot write|output that exists"):
            predict_batch(files, "in", out, TWO)


def test_F10_an_output_of_an_earlier_batch_goes_when_its_image_fails(files):
    predict_batch(files, "in", "out", TWO)
    Path("in/a.tif").write_bytes(b"II*\0")
    assert states(predict_batch(files, "in", "out", TWO, overwrite=True)) == {"a": "failed", "b": "done", "c": "done"}
    assert sorted(p.name for p in Path("out").glob("a*")) == []
    assert ledger("SELECT count(*) FROM runs") == [(1,)]


def test_X4_a_model_that_changed_under_the_batch_is_another_model(files):
    with pytest.raises(PlanError, match="as when the batch began"):
        opened(Opening("model", "cpu", digest="0" * 64))


def test_the_command_predicts_with_workers_and_ends_with_1_if_some_fail(files):
    Path("in/bad.tif").write_bytes(b"II*\0")
    command = ["predict", "model", "in", "-o", "out", "--device", "cpu", "--workers", "2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "3 of 4 images done" in done.output
    assert "[4/4]" in done.output
    Path("in/bad.tif").unlink()
    done = CliRunner().invoke(app, [*command, "--resume"])
    assert done.exit_code == 0
    assert done.output.count("kept") == 3


@pytest.mark.parametrize(("options", "match"), [
    ({"workers": 2, "scheduler": "tcp://localhost:1"}, "--workers together"), ({"workers": 0}, "0 workers"),
])
def test_staff_that_cannot_be_is_refused(options, match):
    with pytest.raises(OptionError, match=match):
        Staff(**options)


@pytest.mark.parametrize(("address", "match"), [
    ("tcp://127.0.0.1:9", r"no scheduler at tcp://127.0.0.1:9"), ("gone.json", r"no scheduler file gone\.json"),
    ("in/a.tif", "no scheduler file in/a.tif"), ("node7", "no address: 'node7'.*tcp://host:8786"),
    ("8786", "no address: '8786'"), ("tcp://:8786", "no host in 'tcp://:8786'"),
    ("tls://127.0.0.1:9", "no scheduler at tls://127.0.0.1:9.*certificates"),
    ("http://127.0.0.1:8787/status", "unknown address scheme 'http'"),
])
def test_P4_no_scheduler_at_the_address_is_an_error_that_names_it_and_leaves_nothing(files, monkeypatch, address,
                                                                                    match):
    monkeypatch.setattr(engine, "CONNECT", 1)
    monkeypatch.setattr(run, "employ", employ)
    with pytest.raises(OptionError, match=match):
        predict_batch(files, "in", "out", Staff(scheduler=address))
    assert not Path("out").exists()


def test_P4_workers_that_could_do_nothing_are_refused_before_anything_runs(files, monkeypatch):
    """Another version, found by a scheduler and a worker that run; and no biosegkit at all."""
    distributed = pytest.importorskip("distributed")

    def one_more(name):
        """The version of a package as workers know it; in the process of a test with a number behind it."""
        return metadata.version(name) + os.environ.get("DRIVER_ALONE", "")

    monkeypatch.setattr(run, "employ", employ)
    mine = metadata.version("biosegkit")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        with employ(Staff(scheduler=cluster.scheduler_address)) as crew:
            assert list(crew.client.run(metadata.version, "biosegkit").values()) == [mine]
        monkeypatch.setenv("DRIVER_ALONE", ".1")  # workers began without it
        monkeypatch.setattr(engine, "metadata", SimpleNamespace(version=one_more))
        with pytest.raises(OptionError, match=rf"biosegkit {mine} in the worker tcp://.* {mine}\.1, as here"):
            predict_batch(files, "in", "out", Staff(scheduler=cluster.scheduler_address))
    assert not Path("out").exists()
    with pytest.raises(OptionError, match="no biosegkit in the worker tcp://b:1"):
        refuse_others({"tcp://a:1": f"{mine}.1", "tcp://b:1": metadata.PackageNotFoundError("biosegkit")})


def test_P8_the_page_of_a_stopped_batch_has_failures_first_and_what_earlier_runs_left(files, monkeypatch):
    """In the second run ``a`` fails and nothing else is reached; what the first one did is still there."""
    predict_batch(files, ["in/b.tif", "in/a.tif"], "out", TWO, wish=Wish(also=("thumbnail",)))
    Path("in/a.tif").write_bytes(b"II*\0" + b"0" * 9999)  # the largest is begun first

    @contextmanager
    def alone(_):
        yield Alone()

    def progress(standing, outcome):
        if standing.ended == 1 and outcome is not None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run, "employ", alone)
    with pytest.raises(Stopped):
        predict_batch(files, "in", "out", TWO, wish=Wish(also=("thumbnail",)), resume=True, progress=progress)
    page = Path("out/report.html").read_text("utf-8")
    text = ("not come to its end", "<h2>Failed</h2>", "in/a.tif: found", "<h2>Not done</h2>", "in/c.tif", "not begun",
            "<h2>Results</h2>", 'alt="in/b.tif"', "data:image/jpeg", ">from before</td>")
    places = [page.index(part) for part in text]
    assert places == sorted(places)
    assert page.count("data:image/jpeg") == 1


def test_F10_the_page_of_an_earlier_run_does_not_stay(files, monkeypatch):
    predict_batch(files, "in", "out", TWO)
    assert "every image was done" in Path("out/report.html").read_text("utf-8")
    Path("in/a.tif").write_bytes(b"II*\0")

    @contextmanager
    def alone(_):
        yield Alone()

    def gone(standing, outcome):
        assert not Path("out/report.html").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "employ", alone)
    with pytest.raises(KeyboardInterrupt):
        predict_batch(files, "in", "out", TWO, resume=True, progress=gone)
    assert not Path("out/report.html").exists()


def test_F10_a_batch_that_goes_on_without_workers_is_a_batch_still(files, monkeypatch):
    predict_batch(files, "in", "out", TWO)
    hired = []

    @contextmanager
    def alone(staff):
        hired.append(staff)
        yield Alone()

    monkeypatch.setattr(run, "employ", alone)
    add("d")
    assert states(predict_batch(files, "in", "out", resume=True))["d"] == "done"
    assert hired == [Staff()]
    assert "in/d.tif" in Path("out/report.html").read_text("utf-8")
    assert ledger("SELECT state FROM images WHERE output = 'd.tif'") == [("done",)]


def test_X7_every_option_that_changes_the_result_is_on_the_page_and_in_the_ledger(files):
    wish = Wish(tta=True, save_maps=True, tissue="off", also=("csv",), reading=ReadOptions(pixel_size=0.31, axes="yx"))
    predict_batch(replace(files, options=(("fill_holes", "foreground"),)), "in", "out", TWO, wish=wish)
    page = re.sub(r"\s+", " ", Path("out/report.html").read_text("utf-8"))
    rows = dict(re.findall(r'<td class="key">(.*?)</td><td><code>(.*?)</code>', page))
    assert rows.pop("model hash") == load("model", "cpu").tidied(fill_holes="foreground").digest
    assert rows == {
        "biosegkit": metadata.version("biosegkit"), "model": "model", "tta": "yes",
        "option": "fill_holes=foreground, largest=none", "tissue": "off", "axes": "yx", "pixel-size": "0.31",
        "device": "cpu", "save-maps": "yes", "also": "csv", "workers": "2 on this machine"}
    ((options,),) = ledger("SELECT options FROM runs")
    assert json.loads(options) == {
        "tta": True, "thresholds": {}, "save_maps": True, "also": ["csv"], "tissue": "off", "device": "cpu",
        "option": {"fill_holes": "foreground"}, "depth": None,
        "reading": {"axes": "yx", "spacing": None, "unit": None, "pixel_size": 0.31, "channel_names": [],
                    "frame": None, "series": None}}
    assert ledger("SELECT r.options_hash = i.options_hash FROM runs r, images i") == [(1,)] * 3


def test_arrays_do_not_travel(files, crew, monkeypatch):
    sent = []
    submit = crew.client.submit
    monkeypatch.setattr(crew.client, "submit", lambda *a, **k: sent.append(a) or submit(*a, **k))
    predict_batch(files, "in", "out", TWO)
    assert len(sent) == 3
    assert not [x for _, _, arguments, *_ in sent for x in arguments if isinstance(x, np.ndarray)]
    assert len({o for (_, o) in crew.client.run(os.getpid).items()}) == 2


def test_the_largest_image_is_begun_first_and_outcomes_are_in_the_order_given(files, monkeypatch):
    @contextmanager
    def alone(_):
        yield Alone()

    monkeypatch.setattr(run, "employ", alone)
    add("b", (60, 50))
    add("c", (40, 50))
    done = []
    found = predict_batch(files, "in", "out", TWO, progress=lambda _, o: done.append(Path(o.input).stem))
    assert done == ["b", "c", "a"]
    assert [Path(o.input).stem for o in found] == ["a", "b", "c"]


def test_memory_of_workers_is_not_given_back_at_every_step(crew):
    assert set(crew.client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}
    assert set(crew.client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"1"}
