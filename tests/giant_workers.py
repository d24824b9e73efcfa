"""What worker processes of tests of giant images need: chunks as small as those of the test that starts them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from biosegkit.batch.blocks import finish_image, infer_block, paint_block, prepare_image, resolve_image
from biosegkit.io.zarr import CHUNK


def begin(chunk):
    """In a new worker."""
    import torch

    torch.set_num_threads(1)
    CHUNK.update(chunk)


@contextmanager
def workers(count, chunk):
    """Processes that know nothing of this one but what they are given."""
    with ProcessPoolExecutor(count, get_context("spawn"), begin, (chunk,)) as pool:
        yield pool


def segment_in(pool, job):
    """All steps of a giant image, blocks side by side in the workers, the last ones first."""
    steps = prepare_image(job)
    groups = steps.groups[::-1]
    made = list(pool.map(infer_block, [job] * len(groups), groups))
    resolve_image(job)
    boxes = steps.boxes[::-1]
    list(pool.map(paint_block, [job] * len(boxes), boxes))
    finish_image(job)
    return made
