"""Kill a batch of slides at random moments, resume it, and compare all its files with those of one never stopped.

    python benchmarks/batch_kill.py MODEL SLIDE [--slides 20] [--kills 10] [--workers 2] [--seed 0] [--write]

The slides are pieces cut out of SLIDE, each a pyramidal OME-TIFF of its own, at the same pixel size. Each kill is a
SIGKILL of the command and all its workers at a seeded moment of their life: while programs start, a model is loaded, in
the network, while blocks, decisions, chunks, tables or polygons are written. ``--resume`` goes on in the same folder;
once a batch has come to its end its files are compared, byte by byte, and the next kill is of a new batch. The ledger
and the report, which tell times, are left out. Prints one line per kill, and ends with 1 if a file differs. ``--write``
makes ``results/batch_kill.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from side_by_side import about

from biosegkit.io import open_pyramid

RECORD = Path(__file__).parent / "results/batch_kill.json"
#: Files that tell times.
LEFT_OUT = ("ledger.sqlite", "report.html", "lock")
SIZE = (500, 600)


def main() -> int:
    """Run the straight batch once, then kill and resume others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    random = np.random.default_rng([options.seed])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut(options.slide, folder / "slides", options.slides, random)
        begun = time.monotonic()
        batch(options, folder, folder / "straight", None)
        whole, straight = time.monotonic() - begun, files(folder / "straight")
        objects = sum(json.loads(p.read_text())["objects"] for p in (folder / "straight").glob("*.zarr.json"))
        print(f"straight batch: {options.slides} slides, {objects} objects, {len(straight)} files, {whole:.1f} s",
              flush=True)
        kills, out, same = [], folder / "killed", True
        while len(kills) < options.kills:
            after = float(random.uniform(0.1, 0.7) * whole)
            killed = batch(options, folder, out, after)
            if killed:
                kills.append({"after_s": round(after, 1), "images_there": len(list(out.glob("*.zarr.json")))})
                print(f"kill {len(kills)}: after {after:.1f} s, {kills[-1]['images_there']} slides done", flush=True)
            if killed and len(kills) == options.kills:
                batch(options, folder, out, None)
            if not killed or len(kills) == options.kills:
                found = files(out)
                differ = sorted(k for k in straight.keys() | found.keys() if straight.get(k) != found.get(k))
                print("all files are equal" if not differ else f"DIFFER: {differ[:5]}", flush=True)
                same = same and not differ
                shutil.rmtree(out)
        record = {**about(), "slides": options.slides, "objects": objects, "files": len(straight),
                  "straight_s": round(whole, 1), "workers": options.workers, "kills": kills, "equal": same}
    if options.write:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if same else 1


def cut(slide: Path, folder: Path, count: int, random: np.random.Generator, side: tuple[int, int] = SIZE) -> None:
    """Pieces of a slide as pyramids of two levels."""
    folder.mkdir()
    pyramid = open_pyramid(slide)
    array, (height, width) = pyramid.arrays[0], pyramid.grids[0].shape
    size = pyramid.grids[0].spacing[0]
    for number in range(count):
        y, x = (int(random.integers(0, n - m + 1)) for n, m in zip((height, width), side, strict=True))
        piece = np.moveaxis(np.asarray(array[:, y : y + side[0], x : x + side[1]]), 0, -1)
        meta = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": "µm",
                "PhysicalSizeYUnit": "µm"}
        with tifffile.TiffWriter(folder / f"slide_{number:02d}.ome.tif", ome=True) as out:
            how = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb"}
            out.write(piece, subifds=1, metadata=meta, **how)
            out.write(piece[::2, ::2], subfiletype=1, **how)


def batch(options: argparse.Namespace, folder: Path, out: Path, after: float | None,
          more: tuple[str, ...] = ()) -> bool:
    """The command in processes of its own, killed after some seconds; whether they were killed."""
    command = [str(Path(sys.executable).with_name("biosegkit")), "predict", options.model, str(folder / "slides"), "-o",
               str(out), "--workers", str(options.workers), "--device", "cpu", *more,
               *(["--resume"] if out.exists() else [])]
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log,
                                                              start_new_session=True) as child:
        try:
            code = child.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
    if code:
        raise SystemExit(f"the batch ended with {code}:\n{(folder / 'log').read_text()[-3000:]}")
    return False


def files(folder: Path) -> dict[str, str]:
    """Hashes of everything there is, by path."""
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in LEFT_OUT}


if __name__ == "__main__":
    raise SystemExit(main())
