"""How long `biosegkit --help` takes beside a bare Python: the promise is half a second, torch not loaded.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python": "pass",
    "--help": "import sys; sys.argv[1:] = ['--help']; from biosegkit.cli import main; main()",
    "train --help": "import sys; sys.argv[1:] = ['train', '--help']; from biosegkit.cli import main; main()",
}


def main() -> None:
    """Run all in turn, several times; print medians and ratios to the bare interpreter."""
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(8):
        for name, code in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            spent[name].append(time.perf_counter() - begun)
    bare = statistics.median(spent["python"][1:])
    for name, seconds in spent.items():
        median = statistics.median(seconds[1:])  # the first compiles
        print(f"{name:14} {median:.3f} s, {median / bare:.1f} times a bare interpreter")


if __name__ == "__main__":
    main()
