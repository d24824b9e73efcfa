"""Tables of columns for Qt's views: sorted by any column, numbers written short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtWidgets import QAbstractItemView, QTableView

__all__ = ["Columns", "order_of", "table_view", "text_of"]


def text_of(value: Any) -> str:
    """A value as it is shown.

    Examples
    --------
    >>> text_of(np.int64(7)), text_of(0.123456), text_of(123456.7), text_of(float("nan")), text_of("a"), text_of(None)
    ('7', '0.1235', '123457', '', 'a', '')
    """
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.0f}" if abs(value) >= 10000 else f"{value:.4g}"
    return "" if value is None else str(value)


def order_of(column: Any, descending: bool) -> Any:
    """The rows of a column in order; what is undefined comes last either way, equal values stay in their order.

    Examples
    --------
    >>> order_of(np.array([2.0, np.nan, 3.0, 2.0]), True).tolist()
    [2, 0, 3, 1]
    >>> order_of(np.array(["b", "a"], object), False).tolist()
    [1, 0]
    """
    values = np.asarray(column)
    if values.dtype.kind not in "iufb":
        values = np.unique([text_of(v) for v in values], return_inverse=True)[1]
    values = values.astype(np.float64) if values.dtype.kind in "ub" else values
    return np.argsort(-values if descending else values, kind="stable")


class Columns(QAbstractTableModel):
    """Columns of equal length as Qt's views want them; nothing is copied, whatever the number of rows."""

    def __init__(self, tips: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.table: dict[str, Any] = {}
        self.order: Any = np.zeros(0, np.int64)
        self._tips = dict(tips or {})
        self._sorted: tuple[int, bool] | None = None

    def show(self, table: Mapping[str, Any]) -> None:
        """Other columns, sorted as those before where there is such a column."""
        self.beginResetModel()
        self.table = dict(table)
        self.order = np.arange(len(next(iter(self.table.values()), ())))
        if self._sorted is not None and self._sorted[0] < len(self.table):
            self.order = order_of(list(self.table.values())[self._sorted[0]], self._sorted[1])
        self.endResetModel()

    def place_of(self, row: int) -> int:
        """Where a row of the table is shown."""
        return int(np.flatnonzero(self.order == row)[0])

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: B008 - Qt's
        """How many rows."""
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: Any = QModelIndex()) -> int:  # noqa: B008 - Qt's
        """How many columns."""
        return 0 if parent.isValid() else len(self.table)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell shows."""
        if not index.isValid():
            return None
        value = list(self.table.values())[index.column()][self.order[index.row()]]
        if role == Qt.ItemDataRole.DisplayRole or (role == Qt.ItemDataRole.ToolTipRole and isinstance(value, str)):
            return text_of(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and not isinstance(value, str):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Names of columns, and what they mean."""
        if orientation != Qt.Orientation.Horizontal or section >= len(self.table):
            return None
        name = list(self.table)[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return name.replace("_", " ")
        return self._tips.get(name, "Click to sort") if role == Qt.ItemDataRole.ToolTipRole else None

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        """Another order of the rows; what is selected stays so."""
        descending = order == Qt.SortOrder.DescendingOrder
        self._sorted = (column, descending) if column >= 0 else None
        if not 0 <= column < len(self.table):
            return
        self._rearrange(order_of(list(self.table.values())[column], descending))

    def update_cells(self, table: Mapping[str, Any]) -> None:
        """Other values in the same rows and columns; what is selected stays so. Other rows: as :meth:`show`."""
        same = list(table) == list(self.table) and len(next(iter(table.values()), ())) == len(self.order)
        if not same:
            self.show(table)
            return
        self.table = dict(table)
        order = self.order if self._sorted is None else order_of(list(table.values())[self._sorted[0]],
                                                                 self._sorted[1])
        self._rearrange(order)

    def _rearrange(self, order: Any) -> None:
        """Show the rows in another order."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        rows = [int(self.order[index.row()]) for index in before]
        self.order = order
        self.changePersistentIndexList(before, [
            self.index(self.place_of(row), index.column()) for row, index in zip(rows, before, strict=True)])
        self.layoutChanged.emit()


def table_view(model: Columns, tip: str) -> QTableView:
    """A view of it: whole rows, one at a time, sorted by a click on a header."""
    view = QTableView()
    model.setParent(view)  # it lives as long
    view.setModel(model)
    view.setToolTip(tip)
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.verticalHeader().setVisible(False)
    view.verticalHeader().setDefaultSectionSize(22)
    view.setWordWrap(False)
    view.horizontalHeader().setResizeContentsPrecision(50)  # rows that widths are made for
    view.horizontalHeader().setStretchLastSection(True)
    view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
    view.setSortingEnabled(True)
    return view
