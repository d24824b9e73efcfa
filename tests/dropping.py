"""A file or a folder that is dropped on a napari window, as a person does it."""

from __future__ import annotations

__all__ = ["drop"]


def drop(viewer, application, spin, path):
    """Drop it, choose biosegkit where napari asks for a reader, and wait for a layer; the titles of what was asked."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
    from qtpy.QtGui import QDropEvent
    from qtpy.QtWidgets import QDialog, QDialogButtonBox, QRadioButton

    asked = []

    def answer():
        for dialog in [w for w in application.topLevelWidgets() if isinstance(w, QDialog) and w.isVisible()]:
            next(b for b in dialog.findChildren(QRadioButton) if b.text() == "biosegkit").click()
            asked.append(dialog.windowTitle())
            dialog.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Ok).click()

    timer = QTimer(interval=100)
    timer.timeout.connect(answer)
    timer.start()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    before = len(viewer.layers)
    viewer.window._qt_viewer.dropEvent(QDropEvent(
        QPointF(50, 50), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier))
    spin(lambda: len(viewer.layers) > before)
    timer.stop()
    return asked
