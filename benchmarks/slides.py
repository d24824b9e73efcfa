"""Regions of slides: ours beside tiffslide and OpenSlide, and the memory that a giant image of one level takes.

    python benchmarks/slides.py [--repeats 5] [--write]

The slides are those of ``BIOSEGKIT_DATA``; every contestant reads the same 60 squares of 512 pixels, and the largest
difference of their values is in the record. Memory is the growth of the resident peak while a JPEG TIFF in tiles, made
here, is read at half its size in windows of 1024 pixels (resampled), and while its tissue is found. ``--write`` makes
``results/slides.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import openslide
import tifffile
import tiffslide
from side_by_side import about, alone, growth, peak, say, turns

from biosegkit.batch.tissue import find_tissue
from biosegkit.io import at_spacing, open_pyramid

RECORD = Path(__file__).parent / "results/slides.json"
SIDES = (10_000, 20_000)


def compared(path, repeats):
    """Seconds per square, and whether the values are equal."""
    ours, other, third = open_pyramid(path).level(0).array, tiffslide.TiffSlide(path), openslide.OpenSlide(str(path))
    rng = np.random.default_rng(0)
    places = [tuple(int(rng.integers(0, n - 512)) for n in ours.shape[1:]) for _ in range(60)]
    row, found = turns({
        "ours": lambda: [ours[:, y : y + 512, x : x + 512] for y, x in places],
        "tiffslide": lambda: [other.read_region((x, y), 0, (512, 512), as_array=True) for y, x in places],
        "openslide": lambda: [np.asarray(third.read_region((x, y), 0, (512, 512))) for y, x in places],
    }, repeats)
    apart = {name: max(int(np.abs(np.moveaxis(a, 0, -1).astype(int) - b[..., :3]).max())
                       for a, b in zip(found["ours"], found[name], strict=True)) for name in ("tiffslide", "openslide")}
    row = {"slide": path.name, "squares": len(places), **row, "largest_difference": apart}
    say("regions", row)
    return row


def made(path, side):
    """A slide without levels: glass with a pattern in its middle."""
    y, x = np.indices((512, 512))
    pattern = np.stack([150 + 60 * np.sin(y / 9), 90 + 60 * np.cos(x / 7), 150 + 50 * np.sin((x + y) / 11)], -1)
    kinds = pattern.astype(np.uint8), np.full((512, 512, 3), 243, np.uint8)
    count = -(-side // 512)
    tiles = (kinds[0 if abs(i - count / 2) < count / 3 and abs(j - count / 2) < count / 3 else 1]
             for i in range(count) for j in range(count))
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), photometric="rgb",
                     compression="jpeg", resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None)


def child(what, path):
    """Growth while one giant image is read."""
    pyramid = open_pyramid(path)
    at_spacing(pyramid, (1, 1), "um").array[:, :64, :64]  # kernels are loaded

    def windows():
        array = at_spacing(pyramid, (1, 1), "um").array
        for y in range(0, array.shape[1], 1024):
            for x in range(0, array.shape[2], 1024):
                array[:, y : y + 1024, x : x + 1024]

    peak(windows if what == "windows" else lambda: find_tissue(pyramid).mask.mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    alone()
    if options.child:
        child(*options.child)
        return
    slides = sorted((Path(os.environ["BIOSEGKIT_DATA"]) / "wsi_slides/images").iterdir())
    rows = [compared(path, options.repeats) for path in slides]
    memory = []
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            made(Path(folder) / "a.tif", side)
            bytes_of = {what: growth(__file__, what, f"{folder}/a.tif") for what in ("windows", "tissue")}
            memory.append({"side": side, "whole": 3 * side**2, "bytes": bytes_of})
            say("memory", memory[-1])
    if options.write:
        RECORD.write_text(json.dumps({**about("tifffile", "imagecodecs", "tiffslide", "openslide-python"), "rows": rows,
                                      "memory": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
