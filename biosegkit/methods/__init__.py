"""Instance methods: a literal table from name to a frozen dataclass of options."""

from __future__ import annotations

from collections.abc import Callable

from biosegkit.methods.boundary import Boundary
from biosegkit.methods.classes import WithClasses
from biosegkit.methods.decoding import decode, oracle, round_trip
from biosegkit.methods.distance import Distance
from biosegkit.methods.flow import Flow
from biosegkit.methods.flow_eikonal import flow_eikonal
from biosegkit.methods.hv import HoverMaps
from biosegkit.methods.offset import Offset
from biosegkit.methods.protocol import (
    Block,
    Decisions,
    Head,
    Method,
    ObjectTable,
    Requirements,
    State,
    Tunable,
)
from biosegkit.methods.semantic import Semantic
from biosegkit.methods.signed_distance import SignedDistance
from biosegkit.methods.star import Star

__all__ = [
    "METHODS",
    "Block",
    "Boundary",
    "Decisions",
    "Distance",
    "Flow",
    "Head",
    "HoverMaps",
    "Method",
    "ObjectTable",
    "Offset",
    "Requirements",
    "Semantic",
    "SignedDistance",
    "Star",
    "State",
    "Tunable",
    "WithClasses",
    "decode",
    "flow_eikonal",
    "oracle",
    "round_trip",
]

#: Methods by the name a plan uses. Every one takes its options by keyword, ``batch_dice`` and ``objective`` among them.
METHODS: dict[str, Callable[..., Method]] = {
    "semantic": Semantic,
    "distance": Distance,
    "signed_distance": SignedDistance,
    "boundary": Boundary,
    "star": Star,
    "flow": Flow,
    "flow_eikonal": flow_eikonal,
    "hv": HoverMaps,
    "offset": Offset,
}
