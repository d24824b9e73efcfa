"""Files with several images, and stores behind URLs: what is predicted, under which names, and what is refused."""

import json
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from batch_tasks import Alone
from giant_images import model_of, saved, textured
from stub_models import fresh_weights, stub_plan
from web_server import Faltering, serving

from biosegkit._atomic import sha256
from biosegkit.batch import giants, layout, run
from biosegkit.batch.engine import Staff
from biosegkit.batch.run import predict_batch
from biosegkit.batch.tasks import Opening
from biosegkit.bundle import load, write_bundle
from biosegkit.errors import FileError
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.inputs import find_jobs
from biosegkit.io import ReadOptions, open_pyramid, read, read_labels, remote, write
from biosegkit.io.zarr import CHUNK
from biosegkit.predict import predict_files
from biosegkit.records import Wish

RNG = np.random.default_rng(11)
OUT = Path("out")


def names(inputs, **options):
    return [(job.name, dict(job.reading)) for job in find_jobs(inputs, OUT, **options)]


def model_in(folder, **options):
    """A model with an identity, so that what it made can be kept."""
    plan = stub_plan(2, patch=(16, 16), **options)
    write_bundle(folder / "model", plan, {"0": fresh_weights(plan, 2)})
    return load(folder / "model", "cpu")


def movie(path, frames=3):
    array = RNG.normal(size=(frames, 2, 20, 30)).astype(np.float32)
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "TCYX"})
    return array


# time points and positions --------------------------------------------------------------------------------------------

def test_every_time_point_has_its_own_result(tmp_path):
    array = movie(tmp_path / "a.ome.tif")
    model = model_in(tmp_path, channels=2)
    found = predict_files(model, tmp_path / "a.ome.tif", tmp_path / OUT)
    assert [(o.state, Path(o.output).name) for o in found] == [("done", f"a_t000{t}.tif") for t in range(3)]
    assert found[1].input == f"{tmp_path / 'a.ome.tif'} (t0001)"
    for t, one in enumerate(found):
        alone = model.predict(Image(array[t], Grid.regular((20, 30)))).labels
        np.testing.assert_array_equal(read_labels(one.output, "semantic").restored(), alone.restored())
    record = json.loads((tmp_path / "out/a_t0002.tif.json").read_text())
    assert record["options"]["reading"]["frame"] == 2
    assert any("time point 2 of 3" in note for note in record["notes"])
    again = predict_files(model, tmp_path / "a.ome.tif", tmp_path / OUT, resume=True)
    assert [o.state for o in again] == ["kept"] * 3


def test_one_time_point_reads_no_other(tmp_path):
    array = movie(tmp_path / "a.ome.tif", frames=20)
    one = ReadOptions(frame=7, memory_budget=2 * array[0].nbytes)  # all twenty would be refused
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif", one).array, array[7])


def test_names_tell_positions_and_time_points(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as out:
        out.write(np.zeros((2, 20, 30), np.uint8), metadata={"axes": "TYX"})
        out.write(np.zeros((20, 30), np.uint8), metadata={"axes": "YX"})
    assert names(tmp_path / "two.ome.tif") == [("two_p0000_t0000", {"series": 0, "frame": 0}),
                                               ("two_p0000_t0001", {"series": 0, "frame": 1}),
                                               ("two_p0001", {"series": 1})]
    assert names(tmp_path / "two.ome.tif", reading=ReadOptions(series=1)) == [("two", {})]
    assert [name for name, _ in names(tmp_path / "two.ome.tif", reading=ReadOptions(series=0))] == [
        "two_t0000", "two_t0001"]
    (tmp_path / "cut.tif").write_bytes((tmp_path / "two.ome.tif").read_bytes()[:700])
    assert names(tmp_path / "cut.tif") == [("cut", {})]  # fails when it is its turn


def plate(path):
    """Two wells of one field each, with 4 and 5 as values."""
    for column in ("1", "2"):
        write(Image(np.full((1, 20, 20), int(column) + 3, np.uint8), Grid.regular((20, 20), 0.5, "um")),
              path / "B" / f"{column}.zarr")
        (path / "B" / column).mkdir()
        (path / "B" / f"{column}.zarr").rename(path / "B" / column / "0")
        zarr.open_group(path / "B" / column, mode="a").attrs["ome"] = {"version": "0.5",
                                                                       "well": {"images": [{"path": "0"}]}}
    zarr.open_group(path, mode="a").attrs["ome"] = {
        "version": "0.5", "plate": {"wells": [{"path": "B/1"}, {"path": "B/2"}], "rows": [], "columns": []}}


def test_every_field_of_a_plate_has_its_own_result(tmp_path):
    plate(tmp_path / "in/plate.zarr")
    assert [name for name, _ in names(tmp_path / "in")] == ["plate_B1_0", "plate_B2_0"]
    found = predict_files(model_in(tmp_path), tmp_path / "in", tmp_path / OUT)
    assert [(o.error, Path(o.output).name) for o in found] == [(None, f"plate_B{c}_0.ome.zarr") for c in (1, 2)]
    assert read_labels(found[1].output, "semantic").grid.spacing == (0.5, 0.5)


# URLs -----------------------------------------------------------------------------------------------------------------

def stored(path, shape=(1, 40, 50)):
    image = Image(RNG.normal(size=shape).astype(np.float32), Grid.regular(shape[1:], 0.5, "um"))
    write(image, path)
    return image


def chunks(output):
    """Hashes of all that is in a store of labels."""
    return {p.relative_to(output).as_posix(): sha256(p) for p in sorted(Path(output).rglob("*")) if p.is_file()}


def test_a_store_in_s3_gives_what_it_gives_on_disk_and_resume_sees_that_it_changed(tmp_path, s3):
    url, store = "s3://bucket/some/a.ome.zarr", tmp_path / "bucket/some/a.ome.zarr"
    stored(store, (1, 1100, 60))
    here, there = open_pyramid(store), open_pyramid(url)
    assert (there.grids, there.channels, there.dtype) == (here.grids, here.channels, here.dtype)
    np.testing.assert_array_equal(there.level(0).array[:, 1000:1050, 3:], here.level(0).array[:, 1000:1050, 3:])
    model = model_in(tmp_path)
    (disk,) = predict_files(model, store, tmp_path / "disk")
    (found,) = predict_files(model, url, tmp_path / "out")
    assert found.error is None
    assert chunks(found.output) == chunks(disk.output)
    assert predict_files(model, url, tmp_path / "out", resume=True)[0].state == "kept"
    chunk = next(path for path in sorted(store.rglob("*")) if path.is_file() and path.suffix != ".json")
    chunk.write_bytes(chunk.read_bytes()[::-1])  # as long as before, and the listing was seen already
    (again,) = predict_files(model, url, tmp_path / "out", resume=True)
    assert again.state == "failed"
    assert "damaged" in again.error
    (lost,) = predict_files(model, "s3://bucket/none.ome.zarr", tmp_path / "lost")
    assert "found no array" in lost.error


def test_a_store_behind_a_url_gives_what_it_gives_on_disk(tmp_path, server):
    stored(tmp_path / "a.ome.zarr")
    plate(tmp_path / "plate.zarr")
    model = model_in(tmp_path)
    (here,) = predict_files(model, tmp_path / "a.ome.zarr", tmp_path / "here")
    for number, url in enumerate((f"{server}/a.ome.zarr", (tmp_path / "a.ome.zarr").as_uri())):
        (there,) = predict_files(model, url, tmp_path / str(number))
        assert (there.error, Path(there.output).name) == (None, "a.ome.zarr")
        assert chunks(there.output) == chunks(here.output)
    (there,) = predict_files(model, f"{server}/a.ome.zarr", tmp_path / "0", resume=True)
    assert (there.input, there.state) == (f"{server}/a.ome.zarr", "kept")
    stored(tmp_path / "a.ome.zarr", (1, 40, 51))
    (there,) = predict_files(model, f"{server}/a.ome.zarr", tmp_path / "0", resume=True)
    assert there.state == "done"
    assert [name for name, _ in names(f"{server}/plate.zarr")] == ["plate_B1_0", "plate_B2_0"]


def test_other_files_may_be_named_by_a_url_of_this_machine(tmp_path):
    movie(tmp_path / "a b.ome.tif")
    assert [name for name, _ in names((tmp_path / "a b.ome.tif").as_uri())] == ["a b_t0000", "a b_t0001", "a b_t0002"]


def test_a_listed_store_that_changes_is_done_again(tmp_path):
    stored(tmp_path / "a.ome.zarr")
    files = fsspec.filesystem("memory")
    try:
        files.put(f"{tmp_path / 'a.ome.zarr'}/", "/bucket/a.ome.zarr/", recursive=True)
        model = model_in(tmp_path)
        states = []
        for _ in range(2):
            states += predict_files(model, "memory://bucket/a.ome.zarr", tmp_path / OUT, resume=True)
        files.pipe("/bucket/a.ome.zarr/0/c/0/0", files.cat("/bucket/a.ome.zarr/0/c/0/0"))  # written again
        states += predict_files(model, "memory://bucket/a.ome.zarr", tmp_path / OUT, resume=True)
        assert [o.state for o in states] == ["done", "kept", "done"]
    finally:
        files.rm("/bucket", recursive=True)


@pytest.mark.parametrize(("address", "said"), [
    ("{server}/none.zarr", "check the address"), ("{server}/secret/a.zarr", "no answer (403"),
    ("{server}/a.tif", "download it"), ("http://127.0.0.1:9/a.zarr", "no answer"),
    ("nothing://a/b.zarr", "Protocol not known"), ("gs://a/b.zarr", "gcsfs"),
])
def test_a_url_that_gives_nothing_fails_alone_and_says_why(tmp_path, server, address, said):
    stored(tmp_path / "good.ome.zarr")
    inputs = [address.format(server=server), f"{server}/good.ome.zarr"]
    bad, good = predict_files(model_in(tmp_path), inputs, tmp_path / OUT)
    assert bad.state == "failed"
    assert said in bad.error
    assert good.state == "done"


@contextmanager
def silent():
    """The address of a host that takes connections and never answers, and how many it took."""
    taken = []

    def take():
        with suppress(OSError):
            while True:
                taken.append(host.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as host:
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{host.getsockname()[1]}", taken
        host.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in taken:
            one.close()


def test_a_host_that_never_answers_is_left_after_a_while_and_the_error_says_how_long(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE", 1.5)
    stored(tmp_path / "good.ome.zarr")
    started = time.monotonic()
    with silent() as (address, taken):
        bad, good = predict_files(model_in(tmp_path), [f"{address}/a.zarr", tmp_path / "good.ome.zarr"], tmp_path / OUT)
    assert time.monotonic() - started < 20
    assert 1 <= len(taken) <= 3, "asked a few times, not once per file of metadata"
    assert good.state == "done"
    assert re.search(rf"{address}/a.zarr.*: found no answer in [12] s .*; expected a server that answers. check the "
                     "address, the network", bad.error)


def test_a_server_that_falls_silent_among_the_chunks_is_not_taken_for_damaged_data(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE", 1.5)
    stored(tmp_path / "a.ome.zarr")
    with serving(Faltering, tmp_path) as address:
        with pytest.raises(FileError, match=r"a.ome.zarr/0: found no answer in [12] s .* or try again later"):
            read(f"{address}/a.ome.zarr")
        Faltering.over.set()


def test_what_the_user_configured_for_the_network_stands(monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"trust_env": True}})
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 7}})
    web, bucket = (remote.waiting(f"{kind}://host/a.zarr") for kind in ("https", "s3"))
    assert web["client_kwargs"]["trust_env"]
    assert web["client_kwargs"]["timeout"].sock_read == 60
    assert bucket == {"config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": 7}}
    assert remote.waiting("memory://a.zarr") == {}


def test_a_giant_behind_a_url_goes_in_blocks(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(CHUNK, 2, (64, 64))
    monkeypatch.setattr(layout, "_BLOCK", 2**12)
    monkeypatch.setattr(giants, "GIANT", 10_000)
    model_of(Path("model"), "distance", 2)
    saved(textured((150, 190)), Path("a.ome.zarr"))

    @contextmanager
    def alone(staff):
        yield Alone(None)

    monkeypatch.setattr(run, "employ", alone)
    (there,) = predict_batch(Opening("model", "cpu"), f"{server}/a.ome.zarr", "there", Staff(1), wish=Wish())
    assert (there.error, there.input) == (None, f"{server}/a.ome.zarr")
    (here,) = predict_batch(Opening("model", "cpu"), "a.ome.zarr", "here", Staff(1), wish=Wish())
    assert here.objects == there.objects > 5
    assert chunks(there.output) == chunks(here.output)
    assert (Path("there") / "a.geojson").read_bytes() == (Path("here") / "a.geojson").read_bytes()
