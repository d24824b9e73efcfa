"""The pictures of docs/tutorial_napari.md, made anew: every step of the loop in a real window, on real data.

Needs a display, a folder with the data sets ``dsb2018``, ``bbbc050_mouse_embryo``, ``msd_hippocampus`` and
``wsi_slides``, and four models: trained on the training images of the first three (of ``dsb2018``: ``type=fluo``), as
`biosegkit run` does, and on the stained ones of ``dsb2018`` (``type=histology_color``):

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/napari_pictures.py \
        DATA NUCLEI NUCLEI3D MRI HISTOLOGY
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import tifffile
from napari_window import (
    Window,
    added,
    case,
    compared,
    correcting,
    opened,
    retrained,
    retraining,
    segmented,
    sheet,
    sized,
    tuned,
)

#: Of the voxels of the embryos (SOURCE.md of the data set).
SPACING = "1.75, 0.8, 0.8 um"
#: The embryos of split train whose annotations are the corrected labels that a model is retrained with.
MORE = (0, 2, 4, 6)


def stack(window: Window, data: Path) -> None:
    """The loop on a stack of an embryo that the model has not seen, from the raw file to a model that has learnt it."""
    viewer = window.viewer
    file, truth = case(data, "bbbc050_mouse_embryo", -1, "test")
    image = opened(window, file, "embryo")
    widget = window.dock("Segment")
    window.wait(lambda: widget.model.box.findData("nuclei3d") >= 0)
    widget.model.model = "nuclei3d"
    window.wait(lambda: "voxel size" in widget.said.text())
    viewer.reset_view()
    window.shoot("01-open")
    labels, widget = segmented(window, "nuclei3d", size=SPACING)
    widget.toggle_volume()
    viewer.reset_view()
    window.shoot("02-segment")
    widget.toggle_volume()
    smallest = int(np.median(np.bincount(labels.data[labels.data > 0])[1:]))
    tune = tuned(window, labels, "min_size", smallest)
    viewer.dims.ndisplay = 3
    viewer.reset_view()
    window.shoot("03-tune")
    viewer.dims.ndisplay = 2
    tune.back_to_trained()
    window.wait(lambda: not tune._decoding.busy)
    corrected(window, labels, tifffile.imread(truth))
    viewer.dims.ndisplay = 3
    viewer.reset_view()
    window.shoot("04-correct")
    viewer.dims.ndisplay = 2
    widget = retraining(window, "embryos")
    added(window, widget, "embryo", image, labels)
    for k in MORE:
        viewer.layers.clear()
        pair = case(data, "bbbc050_mouse_embryo", k, "train")
        image, labels = (opened(window, path, name) for path, name in zip(pair, ("image", "labels"), strict=True))
        sized(window, image, SPACING)
        widget = retraining(window, "embryos")
        added(window, widget, f"embryo_{k}", image, labels)
    retrained(window, widget, "nuclei3d", "5m")
    viewer.dims.set_current_step(0, image.data.shape[0] // 2)
    labels.contour = 1
    viewer.reset_view()
    window.shoot("05-retrain")


def corrected(window: Window, labels, truth: np.ndarray) -> None:
    """What lies on no nucleus is picked and deleted; the object that lies on two most evenly is split by points."""
    found = np.asarray(labels.data)
    false = [int(n) for n in np.unique(found)[1:] if (truth[found == n] > 0).mean() < 0.1]
    shares = [(*sorted(np.bincount(truth[found == n], minlength=2)[1:])[-2:], n) for n in np.unique(found)[1:]]
    least, _, joined = max(shares)
    counts = np.bincount(truth[found == joined])
    counts[0] = 0
    points = [np.argwhere((found == joined) & (truth == n)).mean(axis=0) for n in np.argsort(counts)[-2:]]
    correct = correcting(window, labels)
    correct.go()
    window.wait(lambda: not correct._finding.busy)
    if least > 0.2 * counts.sum():
        correct.cut("points", [tuple(point) for point in points])
        window.wait(lambda: correct._task is None)
        print(correct.said.text())
    for k, number in enumerate(false):
        correct.session.pick(number, more=k > 0)
    if false:
        correct.act("delete")
        window.wait(lambda: correct._task is None)
        print(correct.said.text())
    window.pause()


def compare(window: Window, data: Path) -> None:
    """Labels of another embryo, compared with annotations."""
    file, truth = case(data, "bbbc050_mouse_embryo", -2, "test")
    image = opened(window, file, "embryo_2")
    labels, _ = segmented(window, "nuclei3d", size=SPACING)
    reference = opened(window, truth, "truth_labels")
    sized(window, image, SPACING)
    reference.visible = False
    widget = compared(window, labels, reference)
    labels.visible = False
    window.viewer.dims.ndisplay = 3
    window.viewer.reset_view()
    widget.pages.setCurrentIndex(1)
    window.shoot("06-compare")


def nuclei(window: Window, data: Path) -> None:
    """The loop on nuclei in 2D, on one sheet."""
    viewer, seen = window.viewer, []
    file, truth = case(data, "dsb2018", 1, "test", type="fluo")
    image = opened(window, file, "well")
    labels, widget = segmented(window, "nuclei")
    widget.contours.setChecked(True)
    labels.contour = 2
    viewer.reset_view()
    seen.append(window.seen())
    tune = tuned(window, labels, "min_size", int(np.median(np.bincount(labels.data[labels.data > 0])[1:])))
    seen.append(window.seen())
    tune.back_to_trained()
    window.wait(lambda: not tune._decoding.busy)
    correct = correcting(window, labels)
    correct.go()
    while on_border(np.asarray(labels.data), labels.selected_label):
        correct.go()
    window.wait(lambda: not correct._finding.busy)
    viewer.camera.zoom *= 2
    correct.act("grow")
    window.wait(lambda: correct._task is None)
    labels.contour, labels.opacity = 0, 0.5
    seen.append(window.seen())
    viewer.reset_view()
    widget = retraining(window, "cells")
    added(window, widget, "well", image, labels)
    for k in range(6):
        viewer.layers.clear()
        pair = case(data, "dsb2018", 12 * k, "train", type="fluo")
        image, labels = (opened(window, path, name) for path, name in zip(pair, ("image", "labels"), strict=True))
        added(window, widget, f"cells_{k}", image, labels)
    labels.contour = 1
    viewer.reset_view()
    retrained(window, widget, "nuclei", "2m")
    seen.append(window.seen())
    viewer.layers.clear()
    opened(window, file, "well")
    labels, _ = segmented(window, "nuclei")
    measured(window, seen, labels)
    reference = opened(window, truth, "truth_labels")
    reference.visible = False
    labels.contour = 2
    compared(window, labels, reference)
    viewer.reset_view()
    seen.append(window.seen())
    sheet(seen, "07-nuclei")


def measured(window: Window, seen: list, labels, kind: str = "objects") -> None:
    """The table of sizes and shapes, photographed."""
    widget = window.dock("Measure")
    widget.layer.layer = labels
    widget.kind.setCurrentText(kind)
    widget.start()
    window.wait(lambda: widget._task is None and not widget._turns.busy)
    widget.pages.setCurrentIndex(0)
    window.viewer.reset_view()
    seen.append(window.seen())


def on_border(labels: np.ndarray, number: int) -> bool:
    """Whether an object is cut by the border of its image."""
    return any(number in np.take(labels, side, axis) for axis in range(labels.ndim) for side in (0, -1))


def mri(window: Window, data: Path) -> None:
    """The loop on a crop of an MRI volume with two parts of a hippocampus, classes in place of objects."""
    viewer, seen = window.viewer, []

    def centred(layer) -> None:
        planes = np.nonzero(np.asarray(layer.data))[0]
        viewer.dims.set_point(0, layer.data_to_world((int(np.median(planes)), 0, 0))[0])
        layer.opacity = 0.5
        viewer.reset_view()

    file, truth = case(data, "msd_hippocampus", 0, "test")
    image = opened(window, file, "head")
    labels, _ = segmented(window, "mri")
    centred(labels)
    seen.append(window.seen())
    tune = window.dock("Tune")
    tune.layer.layer = labels
    tune.rows[0].number.setValue(0.9)
    window.wait(lambda: not tune._decoding.busy)
    seen.append(window.seen())
    tune.back_to_trained()
    window.wait(lambda: not tune._decoding.busy)
    correct = correcting(window, labels)
    correct.go()
    window.wait(lambda: not correct._finding.busy)
    correct.act("fill_holes")
    window.wait(lambda: correct._task is None)
    correct.act("grow")
    window.wait(lambda: correct._task is None)
    centred(labels)
    seen.append(window.seen())
    widget = retraining(window, "heads")
    added(window, widget, "head", image, labels, "classes")
    for k in range(8):
        viewer.layers.clear()
        pair = case(data, "msd_hippocampus", k, "train")
        image, labels = (opened(window, path, name) for path, name in zip(pair, ("image", "labels"), strict=True))
        added(window, widget, f"head_{k}", image, labels, "classes")
    retrained(window, widget, "mri", "2m")
    centred(labels)
    seen.append(window.seen())
    viewer.layers.clear()
    opened(window, file, "head")
    labels, _ = segmented(window, "mri")
    measured(window, seen, labels, "classes")
    reference = opened(window, truth, "truth_labels")
    reference.visible = False
    compared(window, labels, reference, "classes")
    labels.visible = False
    centred(labels)
    seen.append(window.seen())
    sheet(seen, "08-mri")


def slide(window: Window, data: Path) -> None:
    """The loop on parts of a slide that are in sight, with a model of stained nuclei."""
    viewer, seen = window.viewer, []
    image = viewer.open(data / "wsi_slides" / "images" / "CMU-1-Small-Region_pyramid.ome.tif", plugin="biosegkit")[0]
    look = (0, 1100.0, 575.0), 3.5
    viewer.camera.center, viewer.camera.zoom = look
    window.pause(1)
    labels, widget = segmented(window, "histology", region="view")
    widget.contours.setChecked(True)
    labels.contour, labels.opacity = 3, 1.0
    seen.append(window.seen())
    tune = tuned(window, labels, "foreground", 0.3)
    seen.append(window.seen())
    tune.back_to_trained()
    window.wait(lambda: not tune._decoding.busy)
    before = viewer.add_labels(np.array(labels.data), name="before", scale=labels.scale, translate=labels.translate,
                               units=labels.units, metadata=dict(labels.metadata), visible=False)
    correct = correcting(window, labels)
    for act in ("grow", "delete"):
        correct.go()
        window.wait(lambda: not correct._finding.busy)
        correct.act(act)
        window.wait(lambda: correct._task is None)
    labels.contour, labels.opacity = 0, 0.5
    seen.append(window.seen())
    viewer.camera.center, viewer.camera.zoom = look
    measured(window, seen, labels)
    compared(window, labels, before)
    viewer.camera.center, viewer.camera.zoom = look
    seen.append(window.seen())
    widget = retraining(window, "tissue")
    added(window, widget, "part", image, labels)
    for k, place in enumerate(((0, 900.0, 300.0), (0, 1200.0, 800.0), (0, 1040.0, 430.0))):
        viewer.camera.center, viewer.camera.zoom = place, 3.5
        window.pause(1)
        labels, _ = segmented(window, "histology", region="view")
        widget = retraining(window, "tissue")
        added(window, widget, f"part_{k}", image, labels)
    retrained(window, widget, "histology", "2m")
    seen.append(window.seen())
    sheet([*seen[:3], seen[5], *seen[3:5]], "09-slide")


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
    window.shoot("11-giant")


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
    window.shoot("10-batch")


def main() -> None:
    """Make them all, or those whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "nuclei", "nuclei3d", "mri", "histology"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=["stack", "compare", "nuclei", "mri", "slide", "giant", "batch"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    data = args.data.resolve()
    work = Path(tempfile.mkdtemp())
    for name in ("nuclei", "nuclei3d", "mri", "histology"):
        shutil.copytree(getattr(args, name).resolve(), work / name, ignore=shutil.ignore_patterns("store"))
    os.chdir(work)
    window = Window()
    for step in args.only:
        window.viewer.layers.clear()
        window.viewer.dims.ndisplay = 2
        globals()[step](window, data)
    window.viewer.close()


if __name__ == "__main__":
    main()
