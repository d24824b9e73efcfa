"""How long tests wait, and how long a thread was kept waiting: on a machine that others keep busy, too."""

from __future__ import annotations

from pathlib import Path

#: Seconds for what another process does, which imports and computes as the machine has time for it.
PATIENCE = 600.0


class Queue:
    """Seconds that threads of this process were ready and had no core; none where the system does not say."""

    def __init__(self):
        self._last = self._read()

    def since(self):
        """Since the last time this was asked."""
        before, self._last = self._last, self._read()
        return sum(seconds - before.get(thread, 0.0) for thread, seconds in self._last.items())

    @staticmethod
    def _read():
        found = {}
        for path in Path("/proc/self/task").glob("*/schedstat"):
            try:
                found[path.parent.name] = 1e-9 * int(path.read_text("ascii").split()[1])
            except OSError:  # the thread has ended
                continue
        return found
