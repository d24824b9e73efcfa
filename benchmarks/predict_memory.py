"""Peak memory of predicting a 512 x 512 x 512 int16 volume with 5 classes, measured in a child process.

    python benchmarks/predict_memory.py [--size 512] [--patch 96] [--classes 5]

The child makes the volume (a ramp, in its own dtype), predicts it with a network of one 1x1x1 convolution, so that what
is measured is the machinery, and prints its peak resident set. Torch and the volume itself are in the number.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time


def child(size, patch, classes):
    import numpy as np
    import torch
    from torch import nn

    from biosegkit.grid import Grid
    from biosegkit.image import Image
    from biosegkit.plan.schema import (
        Architecture,
        Channel,
        Configuration,
        LabelTable,
        Plan,
        Preprocessing,
        Training,
    )
    from biosegkit.segmenter import Segmenter

    torch.set_num_threads(1)

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, classes, 1)

        def forward(self, x):
            return {"classes": self.conv(x)}

    configuration = Configuration(
        name="3d_fullres", ndim=3, spacing=(1.0,) * 3, median_shape=(size,) * 3, patch=(patch,) * 3, batch=2,
        tile_step=(patch // 2,) * 3, architecture=Architecture(
            features=(4,), kernels=((3, 3, 3),), strides=((1, 1, 1),), encoder_blocks=(1,), decoder_blocks=()))
    plan = Plan(
        name="memory", preset="default", method="semantic", configuration=configuration, training=Training(steps=1),
        labels=LabelTable(task="semantic", names=tuple(map(str, range(classes))), values=tuple(range(classes))),
        preprocessing=Preprocessing(channels=(Channel(name="c", scheme="zscore"),), transpose=(0, 1, 2),
                                    resample=False, crop_to_nonzero=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    volume = np.empty((1, size, size, size), np.int16)
    volume[0] = np.arange(size, dtype=np.int16)[:, None, None]
    started = time.perf_counter()
    found = Segmenter(plan, (Point().eval(),), torch.device("cpu"), {}).predict(
        Image(volume, Grid.regular((size,) * 3)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak {peak / 2**20:.2f} GiB ({before / 2**20:.2f} GiB before the volume), "
          f"{time.perf_counter() - started:.0f} s, labels {found.labels.array.dtype} {found.labels.array.shape}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(options.size, options.patch, options.classes)
    else:
        size, patch, classes = (str(v) for v in (options.size, options.patch, options.classes))
        subprocess.run([sys.executable, __file__, "--child", "--size", size, "--patch", patch, "--classes", classes],
                       check=True)


if __name__ == "__main__":
    main()
