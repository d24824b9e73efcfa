"""From two label images to scores, and from the scores of many cases to one record. Images are not read here.

A scores record is plain data (``schema`` 2): ``task``, ``unit``, ``definitions``, ``headline``, per class (semantic) or
pooled and mean (instance) summaries, ``intervals`` of the same names, ``cases``, ``notes``, and ``comparison`` with
another model if there was one. What is undefined is NaN in memory and ``null`` in JSON; how often that happened stands
beside every mean, as ``undefined``.
"""

from __future__ import annotations

from biosegkit.scores.comparison import compare
from biosegkit.scores.files import read_scores, write_csv
from biosegkit.scores.options import METRICS, ScoreOptions
from biosegkit.scores.pairs import score_pair
from biosegkit.scores.summary import SCHEMA, summarise
from biosegkit.scores.tables import tables

__all__ = ["METRICS", "SCHEMA", "ScoreOptions", "compare", "read_scores", "score_pair", "summarise", "tables",
           "write_csv"]
