"""How good a segmentation is: overlap of classes, distances of surfaces, matched instances, honest probabilities.

Every score states its definition; every count can be summed over images; where a score is undefined it is NaN and the
caller counts it apart, so that no empty image is a silent 0 or 1.
"""

from __future__ import annotations

from biosegkit.metrics.aggregated_jaccard import AggregatedJaccard, aggregated_jaccard
from biosegkit.metrics.calibration import CalibrationCounts, calibration_counts, mask_calibration_counts
from biosegkit.metrics.coco import AREAS, CocoDetections, coco_detections
from biosegkit.metrics.instances import (
    THRESHOLDS,
    InstanceCounts,
    count_matches,
    instance_counts,
    match_instances,
)
from biosegkit.metrics.matched_surface import MatchedSurface, matched_surface
from biosegkit.metrics.overlap import (
    OverlapCounts,
    class_counts,
    confusion,
    mean_iou,
    overlap_scores,
    region_counts,
)
from biosegkit.metrics.panoptic import PanopticClass, PanopticCounts, panoptic_counts
from biosegkit.metrics.partition import PartitionSums, partition_sums
from biosegkit.metrics.splits_merges import SplitMergeCounts, split_merge_counts, split_merge_pairs
from biosegkit.metrics.surface import (
    DEFINITIONS,
    SurfaceDefinition,
    SurfaceScores,
    surface_distances,
    surface_scores,
    surface_voxels,
)
from biosegkit.metrics.tracking_challenge import TrackingChallengeCounts, tracking_challenge_counts

__all__ = [
    "AREAS",
    "DEFINITIONS",
    "THRESHOLDS",
    "AggregatedJaccard",
    "CalibrationCounts",
    "CocoDetections",
    "InstanceCounts",
    "MatchedSurface",
    "OverlapCounts",
    "PanopticClass",
    "PanopticCounts",
    "PartitionSums",
    "SplitMergeCounts",
    "SurfaceDefinition",
    "SurfaceScores",
    "TrackingChallengeCounts",
    "aggregated_jaccard",
    "calibration_counts",
    "class_counts",
    "coco_detections",
    "confusion",
    "count_matches",
    "instance_counts",
    "mask_calibration_counts",
    "match_instances",
    "matched_surface",
    "mean_iou",
    "overlap_scores",
    "panoptic_counts",
    "partition_sums",
    "region_counts",
    "split_merge_counts",
    "split_merge_pairs",
    "surface_distances",
    "surface_scores",
    "surface_voxels",
    "tracking_challenge_counts",
]
