"""A curve that grows while a network is trained: the loss, and Dice on held-back patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["Curve", "Points"]

#: Colours of loss and Dice that are told apart on light and dark ground.
_LOSS, _DICE = "#e69f00", "#56b4e9"


@dataclass
class Points:
    """What is drawn: loss and Dice by step, per fold; rows that come again replace the older ones."""

    loss: dict[str, dict[int, float]] = field(default_factory=dict)
    dice: dict[str, dict[int, float]] = field(default_factory=dict)
    total: int = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of ``metrics.jsonl`` with their ``fold``."""
        for row in rows:
            fold, step = str(row.get("fold", "0")), int(row["step"])
            self.total = int(row.get("total") or self.total)
            for name, value in (("loss", row.get("loss")), ("dice", dict(row.get("validation") or {}).get("dice"))):
                if value is not None:
                    series = getattr(self, name).setdefault(fold, {})
                    for later in [s for s in series if s > step]:  # a resumed run goes back to its last state
                        del series[later]
                    series[step] = float(value)

    @property
    def text(self) -> str:
        """Where the training is, in a line."""
        steps = [max(series) for series in self.loss.values() if series]
        if not steps:
            return "no step yet"
        fold = list(self.loss)[-1]
        loss = self.loss[fold][max(self.loss[fold])]
        seen = self.dice.get(fold) or {}
        best = f", Dice {seen[max(seen)]:.3f}" if seen else ""
        return f"fold {fold}, step {max(self.loss[fold])} of {self.total}, loss {loss:.3f}{best}"

    def lines(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """Polylines in the unit square, x to the right and y up: colour and points.

        Examples
        --------
        >>> points = Points()
        >>> points.add([{"step": 1, "total": 2, "loss": 4.0}, {"step": 2, "total": 2, "loss": 2.0}])
        >>> points.lines()
        [('#e69f00', [(0.5, 1.0), (1.0, 0.5)])]
        """
        end = max([self.total, 1, *(s for some in self.loss.values() for s in some)])
        top = max([v for some in self.loss.values() for v in some.values() if math.isfinite(v)], default=0.0) or 1.0
        found = []
        for colour, folds, scale in ((_LOSS, self.loss, top), (_DICE, self.dice, 1.0)):
            for series in folds.values():
                points = [(s / end, min(max(v / scale, 0), 1)) for s, v in sorted(series.items()) if math.isfinite(v)]
                if points:
                    found.append((colour, points))
        return found


class Curve(QWidget):
    """Draws :class:`Points`."""

    def __init__(self) -> None:
        super().__init__()
        self.points = Points()
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.MinimumExpanding)
        self.setToolTip("Orange: loss, from 0 to its highest. Blue: Dice on patches of held-back images, from 0 to 1")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """More rows."""
        self.points.add(rows)
        self.update()

    def clear(self) -> None:
        """Begin anew."""
        self.points = Points()
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Axes and lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(6, 6, -6, -18)
        painter.setPen(QPen(QColor(128, 128, 128), 1))
        painter.drawRect(box)
        painter.drawText(QRectF(box.left(), box.bottom() + 1, box.width(), 16),
                         int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), "loss, Dice / steps")
        for colour, points in self.points.lines():
            line = QPolygonF([QPointF(box.left() + x * box.width(), box.bottom() - y * box.height())
                              for x, y in points])
            painter.setPen(QPen(QColor(colour), 2))
            painter.drawPolyline(line)
            for point in line if len(points) < 30 else []:
                painter.drawEllipse(point, 2, 2)
        painter.end()
