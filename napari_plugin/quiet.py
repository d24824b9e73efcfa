"""Libraries loaded in a thread without stopping the viewer, before work needs them."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["collect_again", "compile_elsewhere", "draw_labels", "load_libraries", "stop_collecting",
           "thresholds", "uncollected"]

#: Packages whose libraries are large, in the order in which they need each other; not every build has all.
_LARGE = {"torch": tuple(f"lib/lib{name}.so" for name in ("c10", "torch_cpu", "torch_cuda", "torch", "torch_python")),
          "llvmlite": ("binding/libllvmlite.so",)}
#: What a result needs: tables of features in napari, and the patterns of lines that its first layer of labels draws.
_LATER = ("pandas", "pyarrow.pandas_compat", "vispy.visuals.line.dash_atlas")
#: What a first model imports, in the order in which another process compiles it; not all of it need be installed.
_FIRST = ("torch", "numba", "pandas", "biosegkit.engines", "biosegkit.live", "biosegkit.estimate",
          "biosegkit.segmenter")
#: Seconds in which a viewer draws an image for the first time.
_DRAWN = 0.4
_LOCK, _COUNTING = threading.Lock(), threading.Lock()
#: The thresholds that each found who wants no searches: what the first found comes back.
_STOPS: list[tuple[int, int, int]] = []


def stop_collecting() -> None:
    """No search for cyclic garbage that Python begins by itself, until `collect_again`; calls are counted.

    By a threshold of zero, not by `gc.disable`: a library that remembers at its import whether searches were allowed,
    as dask does, and is imported meanwhile, would forbid them for good.
    """
    with _COUNTING:
        _STOPS.append(gc.get_threshold())
        gc.set_threshold(0, *_STOPS[0][1:])


def collect_again() -> None:
    """Python searches again as it did before, if nobody else wants none."""
    with _COUNTING:
        before = _STOPS.pop()
        if not _STOPS:
            gc.set_threshold(*before)


def thresholds(besides: int = 0) -> tuple[int, int, int]:
    """The thresholds of Python's searches, were it not for so many who want none; the first is zero for no searches."""
    with _COUNTING:
        found = _STOPS[0] if 0 < len(_STOPS) <= besides else gc.get_threshold()
    return found if gc.isenabled() else (0, *found[1:])


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for cyclic garbage in this block, nor one for what was made in it soon after.

    Imports of large packages make several hundred thousand objects that stay. Each search through all of them stops
    every thread, for a third of a second. What was made here counts as old afterwards: it is looked at when the next
    full search is due. Blocks may overlap, in one thread or several: the last to end lets searches be again.

    Examples
    --------
    >>> with uncollected():
    ...     gc.get_threshold()[0]
    0
    """
    stop_collecting()
    try:
        yield
    finally:
        with _COUNTING:
            if not gc.get_freeze_count():  # else somebody else keeps objects out of it
                gc.freeze()
                gc.unfreeze()  # into the oldest generation, without a look at them
        collect_again()


def compile_elsewhere() -> None:
    """Let another process import, once, what this one has never imported.

    After an installation Python compiles every file at its first import and holds its one lock meanwhile, for a third
    of a second with PyTorch's largest. The other process leaves the compiled files, and the libraries in the system's
    memory, to this one. What cannot be imported there says so when it is imported here.
    """
    names = [name for name in _FIRST if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0])]
    if not any(_uncompiled(name) for name in names) or not sys.executable or getattr(sys, "frozen", False):
        return
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False,  # noqa: S603 - names of this file
                   stdin=subprocess.DEVNULL, capture_output=True,
                   creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0))


def _uncompiled(name: str) -> bool:
    """Whether a module has yet to be compiled, and the result can be kept."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.cached is None or sys.dont_write_bytecode or Path(spec.cached).is_file():
        return False
    return os.access(next(folder for folder in Path(spec.cached).parents if folder.exists()), os.W_OK)


def load_libraries() -> None:
    """Import what running a model and showing its labels needs; call this in a thread.

    Python holds its one lock while the system maps and links the libraries of an extension, which for PyTorch takes a
    third of a second and more. A foreign function is called without the lock: libraries that are mapped that way first
    are there when the import asks for them. Where that is not possible, the import alone does all. Drivers that
    compile what they draw with wait meanwhile, for the system's loader has a lock as well: so what has just been
    opened is drawn first, and one library follows the other.
    """
    with _LOCK:
        compile_elsewhere()
        if sys.platform == "linux":
            dlopen = ctypes.CDLL(None).dlopen
            dlopen.restype, dlopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
            time.sleep(_DRAWN if "napari" in sys.modules and not set(_LARGE) <= set(sys.modules) else 0)
            for package, names in _LARGE.items():
                spec = None if package in sys.modules else importlib.util.find_spec(package)
                for path in (Path(spec.origin).parent / name for name in names) if spec and spec.origin else ():
                    if path.is_file():
                        dlopen(os.fsencode(path), os.RTLD_NOW | os.RTLD_LOCAL)
        import torch  # noqa: F401 - what it is for

        from biosegkit.kernels.runs import runs_of

        runs_of(np.zeros((1, 1), np.uint32))  # the first kernel that is called loads most of numba
        for name in _LATER:
            module = importlib.import_module(name) if importlib.util.find_spec(name.partition(".")[0]) else None
            if hasattr(module, "DashAtlas"):
                module.DashAtlas()  # kept by vispy
    draw_labels()


def draw_labels() -> None:
    """Let napari compile what it draws labels of 32 bits with, planes and volumes; call this in a thread.

    napari compiles a loop of its own for each type of labels when the first of it is shown, for a second and more in
    the viewer's thread. Done here first, it is there when the viewer needs it. No layer is made for that: layers
    belong to the viewer's thread. On macOS numba may run such loops with a pool of threads that two threads must not
    use at once: there it is left to napari, and so it is where napari calls the loop by another name.
    """
    if "napari" in sys.modules and sys.platform != "darwin":
        _compile_labels()


@cache
def _compile_labels() -> None:
    """Once is enough."""
    from napari.utils.colormaps import label_colormap

    drawn = getattr(label_colormap(49, 0.5, background_value=0), "_data_to_texture", None)
    for ndim in (2, 3) if drawn is not None else ():
        drawn(np.zeros((2,) * ndim, np.uint32))
