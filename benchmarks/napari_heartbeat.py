"""Does the viewer answer while a model is loaded, runs, is tuned and is trained? What does the plugin add to its start?

A timer of the viewer's thread beats every few milliseconds; the longest pause between two beats is how long a person
would have waited. Every event that this thread handles is timed as well, by the clock and by what the thread itself
computed, so that the longest one of every phase is known by name. A real model (any run or bundle) segments the image
given, or the plugin's sample tiled to 2000 x 2000 pixels; a slider is dragged; labels are compared. Then parts of that
image are added to a data set with their labels, a network that begins with the model is trained on them from the
viewer and followed to its end, and so is the record of a training of a hundred thousand steps. Needs a display:

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/napari_heartbeat.py RUN \
        --json benchmarks/results/napari_heartbeat.json
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil
from qtpy.QtWidgets import QWidget

#: What the numbers of a phase are, for the record.
EXPLAINED = {
    "longest_ms": "the longest pause between two beats, by the clock",
    "longest_busy_ms": "what the viewer's own thread computed in one pause at most",
    "longest_own_ms": "at most what the longest pause would have been without other work on the machine",
    "longest_event": "the event for which the viewer's thread computed longest, and that time: longest_event_busy_ms",
    "longest_event_ms": "the longest event by the clock",
    "longest_collection_ms": "the longest search for garbage, which stops all threads; a full one waits for a rest",
}


def timed_application():
    """Qt's application, which keeps the events of its thread that took longest; make it before napari does.

    An event that is handled while another one is belongs to the other.
    """
    from qtpy.QtWidgets import QApplication

    class Timed(QApplication):
        """Kept in ``events``: what the event was, milliseconds by the clock, and those that the thread computed."""

        def __init__(self) -> None:
            self.events: list[tuple[str, float, float]] = []
            self.inside = False
            super().__init__(["napari"])

        def notify(self, receiver, event) -> bool:
            """Handle an event."""
            if self.inside or threading.current_thread() is not threading.main_thread():
                return super().notify(receiver, event)
            self.inside, begun, computed = True, time.perf_counter(), time.thread_time()
            name = f"{getattr(event.type(), 'name', event.type())} of {type(receiver).__name__}"
            try:
                return super().notify(receiver, event)
            finally:
                self.inside = False
                took, busy = 1e3 * (time.perf_counter() - begun), 1e3 * (time.thread_time() - computed)
                if took > 5:
                    self.events.append((name, took, busy))

    return Timed()


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

    def until(self, happened, title: str, seconds: float = 900.0) -> dict[str, float | str]:
        """Pauses, in milliseconds, until something is true: the longest, and how many were beyond 100 ms.

        `EXPLAINED` says what each number is. ``longest_own_ms`` is the lesser of two bounds: what all threads of this
        process computed in the pause, and its length without the time that the viewer's thread waited for a core.
        """
        from qtpy.QtWidgets import QApplication

        if self.stacks is not None:
            self.stacks.write(f"== {title}\n")
        begun = time.perf_counter()
        self.at, self.busy, self.own = [begun], [time.thread_time()], [time.process_time()]
        self.queued = [self.in_the_queue()]
        self.collections = [0.0]
        events = getattr(QApplication.instance(), "events", [])
        events.clear()
        while not happened():
            if time.perf_counter() - begun > seconds:
                raise TimeoutError("it did not happen in time")
            QApplication.processEvents()
            time.sleep(0.0005)
        self.beat()
        pauses, busy = 1e3 * np.diff(self.at), 1e3 * np.diff(self.busy)
        own = np.clip(pauses - 1e3 * np.diff(self.queued), busy, 1e3 * np.diff(self.own))
        event, _, computed = max(events, key=lambda one: one[2], default=("", 0.0, 0.0))
        return {"seconds": round(time.perf_counter() - begun, 2), "longest_ms": round(float(pauses.max()), 1),
                "longest_event": event, "longest_event_ms": round(max([0.0, *(one[1] for one in events)]), 1),
                "longest_event_busy_ms": round(computed, 1),
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
        waiting = [act]

        def once_then_wait() -> bool:
            while waiting:
                waiting.pop()()
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


def predicted_and_tuned(viewer, heart: Heart, rows: dict[str, object], args: argparse.Namespace) -> None:
    """A model is loaded and run, and one of its sliders is dragged."""
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


def measured_and_compared(viewer, heart: Heart, rows: dict[str, object]) -> None:
    """Objects are measured, and compared with labels of which some are gone."""
    measure = opened(viewer, heart, rows, "Measure")
    labels = viewer.layers[-1]
    other = labels.data.copy()
    other[other % 7 == 1] = 0
    viewer.add_labels(other, name="truth")
    measure.layer.layer, measure.reference.layer = labels, viewer.layers["truth"]
    rows["settling"] = heart.until(after(1.0), "settling")
    measure.measure.click()
    rows["measuring"] = heart.until(lambda: measure._task is None, "measuring")
    measure.compare.click()
    rows["comparing"] = heart.until(lambda: measure._task is None, "comparing")


def trained(viewer, heart: Heart, rows: dict[str, object], model: str, budget: str) -> None:
    """Six parts of the image become a data set, and a training from the viewer is followed until it is judged."""
    widget = opened(viewer, heart, rows, "Retrain")
    image, labels = viewer.layers[0].data, viewer.layers["truth"].data
    size = min(image.shape) // 4
    corners = [(size * (k // 3), size * (k % 3)) for k in range(6)]
    parts = [(slice(y, y + size), slice(x, x + size)) for y, x in corners]
    for layer in list(viewer.layers):
        viewer.layers.remove(layer)
    shown, fixed = viewer.add_image(image[parts[0]], name="part"), viewer.add_labels(labels[parts[0]], name="fixed")
    widget.dataset.setText("cells")
    widget._on_dataset()
    widget.image.layer, widget.layer.layer = shown, fixed
    for k, part in enumerate(parts):
        shown.data, fixed.data = image[part], labels[part]
        widget.name.setText(f"part_{k}")
        widget.start_adding()
        rows["adding"] = longer(rows.get("adding"), heart.until(lambda: widget._task is None, f"adding {k}"))
    print(widget.said.text().splitlines()[0])
    widget.start.setCurrentIndex(max(0, widget.start.findData(model)))
    widget.budget.setText(budget)
    widget.start_training()
    rows["beginning to train"] = heart.until(lambda: widget.look is not None, "beginning to train")
    rows["training"] = heart.until(lambda: widget.look.state.name != "running", "training")
    rows["scoring before and after"] = heart.until(lambda: widget._task is None and (
        widget.look.judged or widget.look.state.name != "finished"), "scoring before and after")
    print(widget.standing.text())


def followed(viewer, heart: Heart, rows: dict[str, object], steps: int = 100_000) -> None:
    """A training of many steps that was begun elsewhere is looked at, and its curve goes on."""
    out = Path("long")
    (out / "fold-0").mkdir(parents=True)
    lines = [json.dumps({"step": s, "total": 2 * steps, "loss": 3 * 0.99997**s}) + "\n"
             for s in range(10, steps + 1010, 10)]
    log = out / "fold-0" / "metrics.jsonl"
    log.write_text("".join(lines[:-100]), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as still:
        born = psutil.Process(still.pid).create_time()
        out.with_name("long.process.json").write_text(json.dumps({
            "schema_version": 1, "dataset": "cells", "options": {}, "pid": still.pid, "born": born, "said_before": 0,
            "cwd": str(Path.cwd())}), encoding="utf-8")
        widget = next(one for one in viewer.window._qt_window.findChildren(QWidget) if hasattr(one, "open_run"))
        widget.attach(str(out.absolute()))
        rows["following a long training: its record"] = heart.until(
            lambda: len(widget.curve.points.loss.get("0", ())) == len(lines) - 100, "following: its record")
        with log.open("a", encoding="utf-8") as handle:
            for line in lines[-100:]:
                handle.write(line)
                handle.flush()
                rows["following a long training: new steps"] = longer(
                    rows.get("following a long training: new steps"), heart.until(after(0.05), "following: new steps"))
        still.terminate()


def longer(one: dict[str, object] | None, other: dict[str, object]) -> dict[str, object]:
    """Of two phases of a kind the one with the longer pause."""
    return other if one is None or one["longest_busy_ms"] < other["longest_busy_ms"] else one


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
    parser.add_argument("--budget", default="2m", help="of the training; 0 for none")
    args = parser.parse_args()
    for name in ("model", "image", "json", "stacks"):
        path = getattr(args, name)
        if path and Path(path).parent.exists() and (name != "model" or Path(path).exists()):
            setattr(args, name, type(path)(Path(path).absolute()))
    application = timed_application()  # held until the end
    import napari

    viewer = napari.Viewer()
    heart = Heart(None if args.stacks is None else args.stacks.open("w"))
    rows: dict[str, object] = {} if args.no_start_up else {"start_up": start_up()}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        rows["nothing"] = heart.until(after(3.0), "nothing")
        rows |= alone(viewer, heart, args.side) if args.alone else {}
        predicted_and_tuned(viewer, heart, rows, args)
        measured_and_compared(viewer, heart, rows)
        voxels = int(np.prod(viewer.layers[-1].data.shape))
        for name in ("Batch", "Correct"):
            opened(viewer, heart, rows, name)
        if args.budget != "0":
            trained(viewer, heart, rows, args.model, args.budget)
            followed(viewer, heart, rows)
    for name, row in rows.items():
        print(name, json.dumps(row))
    if args.json:
        record = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, software rendering", "phases": rows,
                  "model": Path(args.model).name, "voxels": voxels, "explained": EXPLAINED}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    viewer.close()
    del application


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
