"""Objects by a field that flows to their middle line: for long, thin and bent ones, which have no useful centre.

As `biosegkit.methods.flow`, but the target is the gradient of the distance to the object's own border
(`biosegkit.kernels.distance_flow`; the idea of Omnipose, Cutler et al. 2022, doi:10.1038/s41592-022-01639-4). The
field at a voxel depends on the nearest border only, so a patch need not see an object whole. Paths end all along the
middle line; the many sinks of an object are one as the flows beside them run side by side or towards each other.

Limits: two objects that meet end to end with equal width are parted by a short seam only. Objects at most two voxels
wide have hardly any field.
"""

from __future__ import annotations

from typing import Any

from biosegkit.methods.flow import Flow

__all__ = ["flow_eikonal"]


def flow_eikonal(**options: Any) -> Flow:
    """The flow method with the distance field as its target; takes the options of `Flow`.

    Examples
    --------
    >>> flow_eikonal().field, flow_eikonal(flow_weight=2.0).flow_weight
    ('eikonal', 2.0)
    """
    return Flow(**{"field": "eikonal", **options})
