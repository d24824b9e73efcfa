"""Does the viewer answer while a model is loaded, runs and is tuned? And what does the plugin add to its start?

A timer of the viewer's thread beats every few milliseconds; the longest pause between two beats is how long a person
would have waited. A real model (any run or bundle) segments the image given, or the plugin's sample tiled to 2000 x
2000 pixels; then a slider is dragged. Needs a display:

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/napari_heartbeat.py RUN \
        --json benchmarks/results/napari_heartbeat.json
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np


class Heart:
    """Beats of the thread it is made in; with a file, the stacks of all threads are written to it in long pauses."""

    def __init__(self, stacks: TextIO | None = None) -> None:
        from qtpy.QtCore import QTimer

        self.at: list[float] = []
        self.stacks = stacks
        self.timer = QTimer()
        self.timer.setInterval(2)
        self.timer.timeout.connect(self.beat)
        self.timer.start()

    def beat(self) -> None:
        """Now; and a dump, by a thread that needs no lock of the interpreter, unless the next beat comes in time."""
        self.at.append(time.perf_counter())
        if self.stacks is not None:
            faulthandler.dump_traceback_later(0.08, file=self.stacks)

    def until(self, happened, title: str, seconds: float = 600.0) -> dict[str, float]:
        """Longest pause and how many were beyond 100 ms, in milliseconds, until something is true."""
        from qtpy.QtWidgets import QApplication

        if self.stacks is not None:
            self.stacks.write(f"== {title}\n")
            self.stacks.flush()
        begun = time.perf_counter()
        self.at = [begun]
        while not happened():
            if time.perf_counter() - begun > seconds:
                raise TimeoutError("it did not happen in time")
            QApplication.processEvents()
            time.sleep(0.0005)
        pauses = 1e3 * np.diff([*self.at, time.perf_counter()])
        return {"seconds": round(time.perf_counter() - begun, 2), "longest_ms": round(float(pauses.max()), 1),
                "beyond_100_ms": int((pauses > 100).sum()), "beats": len(pauses)}


def start_up() -> dict[str, float]:
    """Seconds to open a viewer, without the plugin's widgets and with them, in fresh processes; best of three."""
    code = ("import time; t = time.perf_counter(); import napari; v = napari.Viewer(show=False); {} "
            "print(time.perf_counter() - t)")
    opened = "[v.window.add_plugin_dock_widget('biosegkit', w) for w in ('Segment', 'Tune')];"
    found = {}
    for name, extra in (("viewer", ""), ("viewer_and_widgets", opened)):
        times = [float(subprocess.run([sys.executable, "-W", "ignore", "-c", code.format(extra)], capture_output=True,
                                      text=True, check=True).stdout.split()[-1]) for _ in range(3)]
        found[name] = round(min(times), 2)
    return {**found, "added": round(found["viewer_and_widgets"] - found["viewer"], 2)}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--side", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stacks", type=Path, help="write here what every thread did in pauses beyond 80 ms")
    parser.add_argument("--no-start-up", action="store_true", help="do not measure how long the viewer takes to open")
    args = parser.parse_args()
    import napari

    viewer = napari.Viewer()
    heart = Heart(None if args.stacks is None else args.stacks.open("w"))
    segment = viewer.window.add_plugin_dock_widget("biosegkit", "Segment")[1]
    tune = viewer.window.add_plugin_dock_widget("biosegkit", "Tune")[1]
    if args.image:
        viewer.open(args.image, plugin="biosegkit")
    else:
        from biosegkit_samples.microscopy import nuclei

        image = nuclei(2)[0]
        viewer.add_image(np.tile(image, (4, 4))[: args.side, : args.side], name="nuclei")
    rows: dict[str, object] = {} if args.no_start_up else {"start_up": start_up()}
    segment.hub.add_model(args.model)
    rows["loading"] = heart.until(segment.run.isEnabled, "loading")
    segment.start()
    rows["predicting"] = heart.until(lambda: segment._task is None, "predicting")
    print(segment.said.text().splitlines()[0])
    moves = iter(np.linspace(40, 160, 60).astype(int))
    slider, last = tune.rows[0].slider, [0.0]

    def dragged() -> bool:
        """A move every 30 ms, as of a hand; true when the last was shown."""
        if time.perf_counter() - last[0] > 0.03:
            last[0] = time.perf_counter()
            position = next(moves, None)
            if position is None:
                return not tune._decoding.busy
            slider.setValue(int(position))
        return False

    rows["tuning"] = heart.until(dragged, "tuning")
    rows["one_threshold_ms"] = once(tune)
    for name, row in rows.items():
        print(name, json.dumps(row))
    if args.json:
        record = {"machine": f"{platform.machine()}, software rendering", "model": Path(args.model).name,
                  "voxels": int(np.prod(viewer.layers[-1].data.shape)), **rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    viewer.close()


def once(tune) -> dict[str, float]:
    """From a move of a slider to the labels in the layer, alone, and the part of it that decodes; medians of nine."""
    from qtpy.QtWidgets import QApplication

    whole, decoding = [], []
    for position in range(70, 115, 5):
        begun = time.perf_counter()
        tune.rows[0].slider.setValue(position)
        while tune._decoding.busy:
            QApplication.processEvents()
        whole.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        tune.result.live.decode(tune.values())
        decoding.append(time.perf_counter() - begun)
    return {name: round(1e3 * float(np.median(times)), 1)
            for name, times in (("to_the_layer", whole), ("decoding", decoding))}


if __name__ == "__main__":
    main()
