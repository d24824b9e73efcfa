"""How good a segmentation is: overlap of classes, distances of surfaces, matched instances, honest probabilities.

Every score states its definition; every count can be summed over images; where a score is undefined it is NaN and the
caller counts it apart, so that no empty image is a silent 0 or 1.
"""

from __future__ import annotations

from biosegkit.metrics.calibration import CalibrationCounts, calibration_counts, mask_calibration_counts
from biosegkit.metrics.instances import (
    THRESHOLDS,
    InstanceCounts,
    count_matches,
    instance_counts,
    match_instances,
)
from biosegkit.metrics.overlap import (
    OverlapCounts,
    class_counts,
    confusion,
    mean_iou,
    overlap_scores,
    region_counts,
)
from biosegkit.metrics.surface import (
    DEFINITIONS,
    SurfaceDefinition,
    SurfaceScores,
    surface_distances,
    surface_scores,
    surface_voxels,
)

__all__ = [
    "DEFINITIONS",
    "THRESHOLDS",
    "CalibrationCounts",
    "InstanceCounts",
    "OverlapCounts",
    "SurfaceDefinition",
    "SurfaceScores",
    "calibration_counts",
    "class_counts",
    "confusion",
    "count_matches",
    "instance_counts",
    "mask_calibration_counts",
    "match_instances",
    "mean_iou",
    "overlap_scores",
    "region_counts",
    "surface_distances",
    "surface_scores",
    "surface_voxels",
]
