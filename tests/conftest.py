"""What several test modules need."""

from pathlib import Path

import pytest


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
