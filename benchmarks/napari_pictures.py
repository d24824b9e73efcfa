"""The pictures of docs/tutorial_napari.md, made anew: every step of the loop in a real window, on real data.

Needs a display, a folder with the data sets ``dsb2018``, ``bbbc050_mouse_embryo``, ``msd_hippocampus`` and
``wsi_slides``, and four models: trained on the training images of the first three (of ``dsb2018``: ``type=fluo``), as
`biosegkit run` does, and on the stained ones of ``dsb2018`` (``type=histology_color``):

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/napari_pictures.py \
        DATA NUCLEI NUCLEI3D MRI HISTOLOGY
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Picture

HERE = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SIZE = (1280, 800)
#: Of the voxels of the embryos (SOURCE.md of the data set).
SPACING = "1.75, 0.8, 0.8 um"


class Window:
    """A viewer with one dock widget at a time."""

    def __init__(self) -> None:
        import napari

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*SIZE)
        self.docks: list[object] = []

    def wait(self, until, seconds: float = 120.0, said=str) -> None:
        """Let the application run until something is true."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"it did not happen in time: {said()}")
            QApplication.processEvents()
            time.sleep(0.01)

    def pause(self, seconds: float = 0.6) -> None:
        """Let the application run for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def dock(self, name: str):
        """A widget of the plugin, alone on its side."""
        for one in self.docks:
            self.viewer.window.remove_dock_widget(one)
        docked, widget = self.viewer.window.add_plugin_dock_widget("biosegkit", name)
        self.docks = [docked]
        self.pause()
        return widget

    def shoot(self, name: str) -> None:
        """Save the window, in 256 colours: 40 to 250 kB."""
        self.viewer.window.resize(*SIZE)
        self.pause()
        shot = Picture.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        shot.thumbnail((1000, 1000), Picture.Resampling.LANCZOS)
        few = shot.quantize(256, Picture.Quantize.MAXCOVERAGE, kmeans=2)  # small areas in colour keep it
        few.save(HERE / f"{name}.png", optimize=True)
        print(name, (HERE / f"{name}.png").stat().st_size // 1000, "kB")


def segmented(window: Window, model: str, seconds: float = 300.0, size: str = "", **choices: str):
    """Segment what is open with a model, its voxels of a size that the file does not say; the layer and the widget."""
    widget = window.dock("Segment")
    window.wait(lambda: widget.model.box.findData(model) >= 0, seconds)
    widget.model.model = model
    for name, value in choices.items():
        getattr(widget, name).setCurrentText(value)
    widget.size.setText(size)
    widget.size.editingFinished.emit()
    window.wait(widget.run.isEnabled, seconds, widget.said.text)
    widget.start()
    window.wait(lambda: widget._task is None, seconds)
    print(widget.said.text())
    return window.viewer.layers[-1], widget


def case(data: Path, folder: str, place: int, split: str, **where: str) -> tuple[Path, Path]:
    """Image and labels of one case."""
    with (data / folder / "cases.csv").open(newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["split"] == split and all(r[k] == v for k, v in where.items())]
    return data / folder / rows[place]["image"], data / folder / rows[place]["label"]


def nuclei(window: Window, data: Path) -> None:
    """Open, segment, tune, correct: nuclei in 2D."""
    viewer = window.viewer
    image, _ = max((case(data, "dsb2018", k, "test", type="fluo") for k in range(20)),
                       key=lambda pair: Picture.open(pair[0]).size[0] * 1000 + pair[0].stat().st_size / 1e6)
    shutil.copy(image, "new.png")
    viewer.open("new.png", plugin="biosegkit")
    window.shoot("01-open")
    labels, widget = segmented(window, "nuclei")
    widget.contours.setChecked(True)
    labels.contour = 3
    window.pause()
    viewer.reset_view()
    window.shoot("02-segment")
    tune = window.dock("Tune")
    tune.layer.layer = labels
    smallest, = (row for row in tune.rows if row.name == "min_size")
    smallest.number.setValue(int(np.median(np.bincount(labels.data[labels.data > 0])[1:])))
    window.wait(lambda: not tune._decoding.busy)
    window.shoot("03-tune")
    tune.back_to_trained()
    window.wait(lambda: not tune._decoding.busy)
    correct = window.dock("Correct")
    correct.layer.layer = labels
    window.wait(lambda: correct.session is not None and correct._task is None)
    correct.go()
    while on_border(np.asarray(labels.data), labels.selected_label):
        correct.go()
    viewer.camera.zoom *= 2
    correct.act("grow")
    window.wait(lambda: correct._task is None)
    labels.contour, labels.opacity = 0, 0.5
    window.pause()
    window.shoot("04-correct")


def on_border(labels: np.ndarray, number: int) -> bool:
    """Whether an object is cut by the border of its image."""
    return any(number in np.take(labels, side, axis) for axis in range(labels.ndim) for side in (0, -1))


def measure(window: Window, data: Path) -> None:
    """Labels of another image, compared with annotations: one nucleus is missed."""
    viewer = window.viewer
    image, truth = case(data, "dsb2018", 1, "test", type="fluo")
    shutil.copy(image, "well.png")
    viewer.open("well.png", plugin="biosegkit")
    labels, _ = segmented(window, "nuclei")
    labels.contour = 2
    shutil.copy(truth, f"truth_labels{truth.suffix}")
    reference, = viewer.open(f"truth_labels{truth.suffix}", plugin="biosegkit")
    reference.visible = False
    widget = window.dock("Measure")
    widget.layer.layer, widget.reference.layer = labels, reference
    widget.kind.setCurrentText("objects")
    widget.start_comparison()
    window.wait(lambda: widget._task is None, 300)
    widget.pages.setCurrentIndex(1)
    viewer.reset_view()
    window.shoot("09-measure")


def stack(window: Window, data: Path) -> None:
    """Nuclei of an embryo in 3D."""
    image, _ = case(data, "bbbc050_mouse_embryo", -2, "test")
    shutil.copy(image, "embryo.tif")
    window.viewer.open("embryo.tif", plugin="biosegkit")
    _, widget = segmented(window, "nuclei3d", size=SPACING)
    widget.toggle_volume()
    window.viewer.reset_view()
    window.shoot("05-stack")


def mri(window: Window, data: Path) -> None:
    """Two parts of a hippocampus in a crop of an MRI volume."""
    image, _ = case(data, "msd_hippocampus", 0, "test")
    shutil.copy(image, "head.nii.gz")
    window.viewer.open("head.nii.gz", plugin="biosegkit")
    labels, _ = segmented(window, "mri")
    planes = np.nonzero(np.asarray(labels.data))[0]
    window.viewer.dims.set_point(0, labels.data_to_world((int(np.median(planes)), 0, 0))[0])
    labels.opacity = 0.5
    window.viewer.reset_view()
    window.shoot("06-mri")


def slide(window: Window, data: Path) -> None:
    """A part of a slide that is in sight, before the run: no model of these nuclei is at hand."""
    viewer = window.viewer
    viewer.open(data / "wsi_slides" / "images" / "CMU-1-Small-Region_pyramid.ome.tif", plugin="biosegkit")
    viewer.camera.center = (0, 735.0, 520.0)
    viewer.camera.zoom = 1.5
    widget = window.dock("Segment")
    window.wait(lambda: widget.model.box.findData("watershed") >= 0)
    widget.model.model = "watershed"
    widget.region.setCurrentText("view")
    window.pause(1)
    window.wait(widget.run.isEnabled, said=widget.said.text)
    window.shoot("07-slide")


def slide_segmented(window: Window, data: Path) -> None:
    """Another part of the slide, seen closer, with the outlines that a model of stained nuclei found in it."""
    viewer = window.viewer
    viewer.open(data / "wsi_slides" / "images" / "CMU-1-Small-Region_pyramid.ome.tif", plugin="biosegkit")
    viewer.camera.center = (0, 1100.0, 575.0)
    viewer.camera.zoom = 3.5
    window.pause(1)
    labels, widget = segmented(window, "histology", region="view")
    widget.contours.setChecked(True)
    labels.contour, labels.opacity = 3, 1.0
    window.shoot("10-slide-segmented")


def giant(window: Window, data: Path) -> None:
    """All of a slide that is beyond memory: the region of CMU-1 on glass, 9000 x 9000 pixels, in blocks."""
    from biosegkit.io import open_pyramid

    region = open_pyramid(data / "wsi_slides" / "images" / "CMU-1-Small-Region_pyramid.ome.tif").arrays[0]
    levels = [np.full((9000, 9000, 3), 242, np.uint8)]
    place = tuple(slice(3000, 3000 + n) for n in region.shape[1:])
    levels[0][place] = np.moveaxis(np.asarray(region[:, :, :]), 0, -1)
    for _ in range(4):
        levels.append(levels[-1][::2, ::2])
    with tifffile.TiffWriter("slide.ome.tif", bigtiff=True) as tiff:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 90}}
        tiff.write(levels[0], subifds=len(levels) - 1, **options, metadata={
            "axes": "YXS", "PhysicalSizeX": 0.499, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.499,
            "PhysicalSizeYUnit": "µm"})
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)
    window.viewer.open("slide.ome.tif", plugin="biosegkit")
    labels, widget = segmented(window, "histology", 3600)
    widget.said.setText(widget.said.text().replace(f"{Path.cwd()}/", ""))  # a folder for these pictures alone
    labels.opacity = 0.9
    window.viewer.camera.center = (0, 2042.0, 2061.0)  # where there are many nuclei
    window.viewer.camera.zoom = 2.0
    window.pause(2)
    window.shoot("12-giant")


def batch(window: Window, data: Path) -> None:
    """A folder of six images, one of which is damaged: the queue at its end, and one of the results."""
    Path("plate").mkdir()
    for k in range(6):
        image, _ = case(data, "dsb2018", k, "test", type="fluo")
        shutil.copy(image, f"plate/well_{k}.png")
    Path("plate/well_3.png").write_bytes(Path("plate/well_3.png").read_bytes()[:900])
    widget = window.dock("Batch")
    window.wait(lambda: widget.model.box.findData("nuclei") >= 0)
    widget.model.model = "nuclei"
    widget.images.setText("plate")
    widget._on_images()
    widget.start()
    window.wait(lambda: widget.look is not None and widget.look.standing.name != "running", 600)
    widget.page(forward=True)
    window.wait(lambda: len(window.viewer.layers) == 2)
    widget.page(forward=True)
    window.wait(lambda: not widget._opening.busy and not widget._turns.busy)
    window.viewer.layers[-1].contour = 2
    window.shoot("11-batch")


def retrain(window: Window, data: Path) -> None:
    """A data set of a few images, a training that begins with the model, and what it brought."""
    widget = window.dock("Retrain")
    widget.dataset.setText("cells")
    widget._on_dataset()
    for k in range(6):
        window.viewer.layers.clear()
        for path, name in zip(case(data, "dsb2018", 12 * k, "train", type="fluo"), ("image", "labels"), strict=True):
            shutil.copy(path, f"{name}{path.suffix}")
            window.viewer.open(f"{name}{path.suffix}", plugin="biosegkit")
        widget.name.setText(f"cells_{k}")
        widget.name.setModified(True)
        widget.image.layer, widget.layer.layer = window.viewer.layers[0], window.viewer.layers[1]
        widget.kind.setCurrentText("objects")
        widget.start_adding()
        window.wait(lambda: widget._task is None)
    window.viewer.layers[1].contour = 1
    window.wait(lambda: any(widget.start.itemText(i).startswith("nuclei") for i in range(widget.start.count())))
    texts = [widget.start.itemText(i) for i in range(widget.start.count())]
    widget.start.setCurrentIndex(next(i for i, text in enumerate(texts) if text.split()[0].rstrip(",") == "nuclei"))
    widget.budget.setText("3m")
    widget.start_training()
    window.wait(lambda: widget._task is None)
    window.wait(lambda: widget.look is not None and widget.look.state.name != "running", 900)
    window.wait(lambda: widget.look.judged and widget._task is None, 300)
    window.pause(3)
    window.shoot("08-retrain")


def main() -> None:
    """Make them all, or those whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "nuclei", "nuclei3d", "mri", "histology"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=["nuclei", "measure", "stack", "mri", "slide", "slide_segmented",
                                                      "giant", "batch", "retrain"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    data = args.data.resolve()
    work = Path(tempfile.mkdtemp())
    for name in ("nuclei", "nuclei3d", "mri", "histology"):
        shutil.copytree(getattr(args, name).resolve() / "bundle", work / name / "bundle")
    os.chdir(work)
    window = Window()
    for step in args.only:
        window.viewer.layers.clear()
        window.viewer.dims.ndisplay = 2
        globals()[step](window, data)
    window.viewer.close()


if __name__ == "__main__":
    main()
