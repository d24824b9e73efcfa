"""How good a segmentation is: overlap of classes, distances of surfaces, matched instances.

Every score states its definition; every count can be summed over images; where a score is undefined it is NaN and the
caller counts it apart, so that no empty image is a silent 0 or 1.
"""

from __future__ import annotations

from biosegkit.metrics.instances import THRESHOLDS, InstanceCounts, instance_counts, match_instances
from biosegkit.metrics.overlap import OverlapCounts, class_counts, confusion, overlap_scores, region_counts
from biosegkit.metrics.surface import SurfaceScores, surface_distances, surface_scores, surface_voxels

__all__ = [
    "THRESHOLDS",
    "InstanceCounts",
    "OverlapCounts",
    "SurfaceScores",
    "class_counts",
    "confusion",
    "instance_counts",
    "match_instances",
    "overlap_scores",
    "region_counts",
    "surface_distances",
    "surface_scores",
    "surface_voxels",
]
