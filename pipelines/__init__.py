"""Recipes: data for ``biosegkit run``, not code."""
