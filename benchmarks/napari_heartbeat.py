"""Does the viewer answer while a model is loaded, runs and is tuned? And what does the plugin add to its start?

A timer of the viewer's thread beats every few milliseconds; the longest pause between two beats is how long a person
would have waited. A real model (any run or bundle) segments the image given, or the plugin's sample tiled to 2000 x
2000 pixels; then a slider is dragged. Needs a display:

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/napari_heartbeat.py RUN \
        --json benchmarks/results/napari_heartbeat.json
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np


class Heart:
    """Beats of the thread it is made in; with a file, what every thread did in long pauses is written to it."""

    def __init__(self, stacks: TextIO | None = None) -> None:
        from qtpy.QtCore import QTimer

        self.at: list[float] = []
        self.busy: list[float] = []
        self.own: list[float] = []
        self.queued: list[float] = []
        self.timer = QTimer()
        self.timer.setInterval(2)
        self.timer.timeout.connect(self.beat)
        self.timer.start()
        self.collections: list[float] = []
        gc.callbacks.append(self._collect)
        self.stacks, self.thread = stacks, threading.get_ident()
        if stacks is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """Now, and the time that this thread, and all of this process, have computed so far."""
        self.at.append(time.perf_counter())
        self.busy.append(time.thread_time())
        self.own.append(time.process_time())
        self.queued.append(self.in_the_queue())

    @staticmethod
    def in_the_queue() -> float:
        """Seconds that this thread has so far been ready and without a core; 0 where the system does not say."""
        try:
            return 1e-9 * int(Path("/proc/thread-self/schedstat").read_text("ascii").split()[1])
        except OSError:
            return 0.0

    def _collect(self, phase: str, about: dict[str, int]) -> None:
        """A search for garbage, which stops all threads, begins or ends."""
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self.collections.append(1e3 * (time.perf_counter() - self._collecting))

    def _watch(self) -> None:
        """In a thread: write where all threads are while a beat is late, and how late this thread itself comes."""
        last = time.perf_counter()
        while True:
            time.sleep(0.02)
            now = time.perf_counter()
            late, own, last = now - (self.at or [now])[-1], now - last, now
            if late < 0.06:
                continue
            self.stacks.write(f"-- late by {1e3 * late:.0f} ms; the watch woke after {1e3 * own:.0f} ms\n")
            for thread, frame in sys._current_frames().items():
                if thread != threading.get_ident():
                    self.stacks.write(f"{'viewer' if thread == self.thread else 'thread'}\n"
                                      + "".join(traceback.format_stack(frame)[-14:]))
            self.stacks.flush()

    def until(self, happened, title: str, seconds: float = 600.0) -> dict[str, float]:
        """Pauses, in milliseconds, until something is true: the longest, and how many were beyond 100 ms.

        ``longest_busy_ms`` is the time that the viewer's own thread computed in a pause: what the plugin, napari and
        the drawing of a frame took. ``longest_own_ms`` is at most what the pause would have been on a machine without
        other work: what all threads of this process together computed in it, and no more than its length without the
        time that the viewer's thread stood in the system's queue for a core.
        """
        from qtpy.QtWidgets import QApplication

        if self.stacks is not None:
            self.stacks.write(f"== {title}\n")
        begun = time.perf_counter()
        self.at, self.busy, self.own = [begun], [time.thread_time()], [time.process_time()]
        self.queued = [self.in_the_queue()]
        self.collections = [0.0]
        while not happened():
            if time.perf_counter() - begun > seconds:
                raise TimeoutError("it did not happen in time")
            QApplication.processEvents()
            time.sleep(0.0005)
        self.beat()
        pauses, busy = 1e3 * np.diff(self.at), 1e3 * np.diff(self.busy)
        own = np.clip(pauses - 1e3 * np.diff(self.queued), busy, 1e3 * np.diff(self.own))
        return {"seconds": round(time.perf_counter() - begun, 2), "longest_ms": round(float(pauses.max()), 1),
                "beyond_100_ms": int((pauses > 100).sum()), "longest_busy_ms": round(float(busy.max()), 1),
                "busy_beyond_100_ms": int((busy > 100).sum()), "longest_own_ms": round(float(own.max()), 1),
                "own_beyond_100_ms": int((own > 100).sum()), "longest_collection_ms": round(max(self.collections), 1),
                "beats": len(pauses)}


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


def after(seconds: float) -> Callable[[], bool]:
    """True when so much time has passed from now on."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def alone(viewer, heart: Heart, side: int) -> dict[str, object]:
    """What napari takes for layers of this size without the plugin: an image, labels, and labels replaced in place."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (side, side), np.uint8)
    values = np.kron(np.arange(1, 401, dtype=np.uint32).reshape(20, 20), np.ones((side // 20, side // 20), np.uint32))
    rows: dict[str, object] = {}

    def step(title: str, act: Callable[[], object]) -> None:
        done = after(1.0)
        begun = [False]

        def once_then_wait() -> bool:
            if not begun[0]:
                begun[0] = True
                act()
            return done()

        rows[title] = heart.until(once_then_wait, title)

    step("napari alone: an image", lambda: viewer.add_image(image))
    step("napari alone: first labels", lambda: viewer.add_labels(values))
    step("napari alone: second labels", lambda: viewer.add_labels(values[::-1].copy()))
    step("napari alone: labels replaced", lambda: setattr(viewer.layers[-1], "data", values))
    viewer.layers.clear()
    return rows


def opened(viewer, heart: Heart, rows: dict[str, object], name: str):
    """A widget of the plugin, opened while the heart beats."""
    found, done = [], after(1.5)

    def open_then_wait() -> bool:
        if not found:
            found.append(viewer.window.add_plugin_dock_widget("biosegkit", name)[1])
        return done()

    rows[f"opening {name}"] = heart.until(open_then_wait, f"opening {name}")
    return found[0]


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--side", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stacks", type=Path, help="write here what every thread did in pauses beyond 80 ms")
    parser.add_argument("--alone", action="store_true", help="first measure layers of this size without the plugin; "
                        "what napari loads and compiles for them is then there for the rest")
    parser.add_argument("--no-start-up", action="store_true", help="do not measure how long the viewer takes to open")
    args = parser.parse_args()
    import napari

    viewer = napari.Viewer()
    heart = Heart(None if args.stacks is None else args.stacks.open("w"))
    rows: dict[str, object] = {} if args.no_start_up else {"start_up": start_up()}
    rows["nothing"] = heart.until(after(3.0), "nothing")
    rows |= alone(viewer, heart, args.side) if args.alone else {}
    segment, tune = (opened(viewer, heart, rows, name) for name in ("Segment", "Tune"))
    if args.image:
        viewer.open(args.image, plugin="biosegkit")
    else:
        from biosegkit_samples.microscopy import nuclei

        image = nuclei(2)[0]
        viewer.add_image(np.tile(image, (4, 4))[: args.side, : args.side], name="nuclei")
    segment.hub.add_model(args.model)
    rows["loading"] = heart.until(segment.run.isEnabled, "loading")
    segment.start()
    rows["predicting"] = heart.until(lambda: segment._task is None and bool(tune.rows), "predicting")
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
    measure = opened(viewer, heart, rows, "Measure")
    labels = viewer.layers[-1]
    other = labels.data.copy()
    other[other % 7 == 1] = 0
    viewer.add_labels(other, name="truth")
    measure.layer.layer, measure.reference.layer = labels, viewer.layers["truth"]
    rows["settling"] = heart.until(after(1.0), "settling")
    measure.compare.click()
    rows["comparing"] = heart.until(lambda: measure._task is None, "comparing")
    for name in ("Batch", "Retrain", "Correct"):
        opened(viewer, heart, rows, name)
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
