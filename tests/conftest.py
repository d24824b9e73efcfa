"""What several test modules need."""

from pathlib import Path

import fsspec
import pytest
import torch
import zarr
from web_server import Bucket, Files, serving

torch.set_num_threads(1)  # as in a worker; with another number a network's last bit may be another, in whatever order


@pytest.fixture
def server(tmp_path):
    """The address of a web server that has the files of the test's folder."""
    with serving(Files, tmp_path) as address:
        yield address


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """``s3://`` is a server of this machine, whose buckets are the folders of the test's folder."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    with serving(Bucket, tmp_path) as address:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": address, "anon": True})
        yield
        for files in s3fs.S3FileSystem._cache.values():
            if files._s3 is not None:  # s3fs itself waits a tenth of a second for it, and not at all in zarr's loop
                fsspec.asyn.sync(files.loop or zarr.core.sync._get_loop(), files._s3.close, timeout=30)
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of labels so small that tests need little more than these."""
    from biosegkit.io.zarr import CHUNK

    monkeypatch.setitem(CHUNK, 2, (8, 8))
    monkeypatch.setitem(CHUNK, 3, (4, 8, 8))


@pytest.fixture
def with_model(monkeypatch):
    """A model that is not on disk, for giant images."""
    from biosegkit.batch import giant
    from biosegkit.bundle import Bundle

    def set_model(model):
        bundle = Bundle(model, {}, Path(), "digest", weights_digest="weights")
        monkeypatch.setattr(giant, "opened_model", lambda *_: bundle)
        giant._opened.cache_clear()
        return bundle

    yield set_model
    giant._opened.cache_clear()
