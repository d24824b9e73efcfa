"""Post-processing of giant images is that of whole ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from giant_images import model_of, random_cuts, same_as, saved, textured
from scipy import ndimage
from stub_models import stub_plan

from biosegkit.batch import blocks
from biosegkit.batch.blocks import segment_giant
from biosegkit.batch.giant import GiantJob
from biosegkit.batch.layout import Layout
from biosegkit.batch.tidying import applied, decided_step, steps_of
from biosegkit.tidy import Frame, numbered, tidy_classes, tidy_objects, tidy_of

OBJECTS = [{"split": "pieces"}, {"split": "largest", "fill_holes": True}, {"fill_holes": True},
           {"split": "pieces", "fill_holes": True, "border_objects": "remove"}]
CLASSES = [{"largest": ("foreground",)}, {"largest": ("class 3", "class 7"), "fill_holes": ("foreground",)},
           {"fill_holes": ("class 7",)}]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("task", "tidy"), [("instance", t) for t in OBJECTS] + [("semantic", t) for t in CLASSES])
def test_post_processing_in_blocks_is_that_of_the_whole_image(task, tidy, ndim):
    plan = stub_plan(ndim, instance=task == "instance")
    options = tidy_of(plan.labels, {**tidy, **({"border_objects": "keep"} if task == "instance" else {})})
    rng = np.random.default_rng(ndim)
    shape = (33, 41) if ndim == 2 else (9, 14, 15)
    changed = False
    for trial in range(6):
        blobs = ndimage.zoom(rng.integers(0, 4, [-(-n // 3) for n in shape]), 3, order=0)[tuple(map(slice, shape))]
        values = (blobs % 3 if task == "semantic" else blobs).astype(np.int64)
        labels = np.where(rng.random(shape) < (0.15, 0.5, 0.8)[trial % 3], 0, values)
        stacked = ndim == 3 and task == "instance" and trial % 2 == 1
        frame = Frame.of([slice(0, n) for n in shape], shape, 2 if stacked else ndim)
        if task == "instance":
            whole = tidy_objects(numbered(labels)[0], options, frame)[0]
        else:
            whole = tidy_classes(labels, options, plan.labels, frame)
        cuts = [sorted({0, *rng.integers(1, n, 2).tolist()}) for n in shape]
        parts = Layout(shape, tuple(map(tuple, cuts)), ((0,),) * ndim, ((0,),) * ndim).all_blocks(0)
        held = [labels[b.write].copy() for b in parts]
        for step in steps_of(options, plan.labels, frame):
            lookups, _ = decided_step(step, parts, lambda k, held=held: held[k])
            held = [applied(part, step, lookup) for part, lookup in zip(held, lookups, strict=True)]
        found = np.zeros(shape, np.int64)
        for block, part in zip(parts, held, strict=True):
            found[block.write] = part
        if task == "instance":
            found = numbered(found)[0]
        np.testing.assert_array_equal(found, whole)
        changed |= bool((whole != labels).any())
    assert changed


@pytest.mark.parametrize("options", OBJECTS)
def test_tidied_objects_of_giant_images_have_the_rows_of_whole_ones(tmp_path, monkeypatch, small_chunks, options):
    model = model_of(tmp_path / "m", "distance", 2)
    image = saved(textured((61, 46)), tmp_path / "a.tif")
    whole = model.segmenter.tidied(**options).predict(image, thresholds={"foreground": 0.45})
    plain = model.predict(image, thresholds={"foreground": 0.45})
    assert (whole.labels.restored() != plain.labels.restored()).any()
    monkeypatch.setattr(blocks, "plan_layout", random_cuts(4))
    job = GiantJob((str(tmp_path / "a.tif"),), str(tmp_path / "a.ome.zarr"), str(tmp_path / "m"),
                   thresholds=(("foreground", 0.45),), options=tuple((k, str(v)) for k, v in options.items()))
    segment_giant(job)
    same_as(whole, Path(job.output))
