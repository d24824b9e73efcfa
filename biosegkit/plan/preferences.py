"""The methods by name, and which is preferred for which objects where their ceilings are about equal."""

from __future__ import annotations

__all__ = ["METHOD_NAMES", "PREFERENCES"]

#: Every method by name, and what it is, for the command line's help.
METHOD_NAMES = {
    "semantic": "one probability per class",
    "distance": "distance to the object's own border, watershed",
    "signed_distance": "signed distance, zero level and watershed",
    "boundary": "core and border, cores grown back",
    "star": "distances along rays, polygons or polyhedra",
    "flow": "flow towards the object's centre",
    "flow_eikonal": "flow away from the object's border",
    "offset": "offsets to a centre, clusters",
    "hv": "horizontal and vertical place within the object, watershed",
}

#: The order in which methods are preferred when their ceilings are about equal, by kind of objects, and why. This is
#: the one place to change when trainings say otherwise; a method that is not named comes after those that are.
PREFERENCES: dict[str, tuple[tuple[str, ...], str]] = {
    "round": (
        ("distance", "signed_distance", "boundary", "flow", "star", "flow_eikonal", "hv", "offset"),
        "one foreground and one smooth map are learnt in the fewest steps; the first to reach its accuracy in minutes",
    ),
    "long or bent": (
        ("distance", "flow_eikonal", "flow", "signed_distance", "boundary", "offset", "hv", "star"),
        ("a distance is learnt in the fewest steps; where its several peaks in a long or bent object lower its "
         "ceiling, a flow has its way to every voxel"),
    ),
    "dense": (
        ("distance", "boundary", "flow", "signed_distance", "flow_eikonal", "hv", "star", "offset"),
        ("a distance is learnt in the fewest steps and falls to zero at the wall between two objects; next comes the "
         "boundary, as that wall is what an image shows"),
    ),
}
