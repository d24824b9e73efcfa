"""What every worker would load with its first image; importing this loads it in the process workers are forked from.

Numba fills its tables of compiled functions when the first kernel is called, which takes a second.
"""

from numba.core.registry import cpu_target

import biosegkit.batch.chains
import biosegkit.io.png
import biosegkit.io.tiff
import biosegkit.predict  # noqa: F401

__all__: list[str] = []

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
