"""Nuclei in 3D that anybody has who installed `stardist`: train on two parts of its sample stack, score the third.

The stack that the package ships (synthetic, 31 x 61 x 57 voxels, 51 nuclei) is cut along its second axis into three
parts of 19 rows, with 2 rows between them that belong to none; the first two are trained on, the last is scored, pieces
of nuclei that a cut goes through with it. No file says the distance of planes: nuclei are half as many planes high as
they are pixels wide, so that it is given as twice that of pixels. The method is chosen automatically. The command line
is used, as in `accuracy.py`, and the record is of the same form.

    python benchmarks/sample_3d.py --budget 5m
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from accuracy import OBJECTS, TASKS, Task, arguments, keep, measure
from biosegkit_samples.microscopy import nuclei

NAME = "stardist_nuclei3d"
#: Rows of a part, and between two.
ROWS, GAP = 19, 2


def parts() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Split, image and labels (numbered from 1 in each) of the three parts of the stack."""
    image, labels = nuclei(3)
    windows = [np.s_[:, k * (ROWS + GAP): k * (ROWS + GAP) + ROWS] for k in range(3)]
    return [(split, image[window], np.unique(labels[window], return_inverse=True)[1].reshape(labels[window].shape))
            for split, window in zip(("train", "train", "test"), windows, strict=True)]


def write(folder: Path) -> None:
    """The parts as TIFF and their table."""
    folder.mkdir(parents=True)
    rows = []
    for k, (split, image, labels) in enumerate(parts()):
        names = {kind: f"{kind}_{k}.tif" for kind in ("image", "label")}
        for kind, array in (("image", image), ("label", labels)):
            tifffile.imwrite(folder / names[kind], array.astype(np.uint16), metadata={"axes": "ZYX"})
        rows.append({**names, "case": f"part_{k}", "group": f"part_{k}", "split": split})
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    options = arguments(__doc__, "5m", data=False).parse_args()
    options.more = []
    TASKS[NAME] = Task("3D synthetic nuclei, sample of stardist, instances", OBJECTS,
                       describe=("--spacing", "2,1,1", "--unit", "um"))
    with tempfile.TemporaryDirectory() as scratch:
        options.data = Path(scratch)
        write(options.data / NAME)
        if options.keep:
            options.keep.mkdir(parents=True)
        record = measure(NAME, options.keep or options.data, options)
    keep(NAME, record, options.results)


if __name__ == "__main__":
    main()
