"""A curve that grows while a network is trained: the loss, and Dice on held-back patches."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from .points import Points

__all__ = ["Curve"]


class Curve(QWidget):
    """Draws :class:`Points`."""

    def __init__(self) -> None:
        super().__init__()
        self.points = Points()
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.MinimumExpanding)
        self.setToolTip("Orange: loss, from 0 to its highest. Blue: Dice on patches of held-back images, from 0 to 1")

    def add(self, more: Points) -> None:
        """What has come since."""
        self.points.join(more)
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
