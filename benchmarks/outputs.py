"""How long do GeoJSON and table of a million objects take, beside rasterio and scikit-image, and how much memory?

Small cells of one slide of 20 000 x 20 000 pixels by default, read from a store on disk in which they lie in chunks, as
after the segmentation of a slide. Measured are seconds and the largest resident memory, in a process of its own for
each way: table with intensities, GeoJSON, regions of interest, COCO. rasterio (``rasterio.features.shapes``, all in
memory) and scikit-image (``find_contours`` and ``regionprops_table``, object by object in its box) do the same
job on a part, and their seconds per object are compared. rasterio is left out where it is not installed:

    OMP_NUM_THREADS=1 uv run --with rasterio python benchmarks/outputs.py --json benchmarks/results/outputs.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

from biosegkit._atomic import load_npy
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.outputs import Found, boxed, measured, write_coco, write_csv, write_geojson, write_rois

CHUNK = 1024


def cells(side: int, pitch: int, rows: slice, columns: slice) -> np.ndarray:
    """A part of the labels: ellipses of all directions, one per square of ``pitch`` pixels, ids by raster order."""
    y, x = np.mgrid[rows, columns].astype(np.int32)
    cy, cx = y // pitch, x // pitch
    cell = cy * side + cx
    angle = (cell % 9973) * np.float32(2.399963)
    v, u = y % pitch - np.float32(pitch / 2), x % pitch - np.float32(pitch / 2)
    a, b = 0.42 * pitch, (0.25 + 0.15 * np.abs(np.sin(cell % 9973 * np.float32(1.7)))) * pitch
    inside = ((u * np.cos(angle) + v * np.sin(angle)) / a) ** 2 + ((v * np.cos(angle) - u * np.sin(angle)) / b) ** 2 < 1
    return np.where(inside & (cy < side) & (cx < side), cell + 1, 0).astype(np.uint32)


def make(folder: Path, size: int, pitch: int) -> None:
    """Labels and an RGB image, chunk by chunk."""
    labels = zarr.create_array(folder / "labels", shape=(size, size), chunks=(CHUNK, CHUNK), dtype="uint32")
    image = zarr.create_array(folder / "image", shape=(3, size, size), chunks=(3, CHUNK, CHUNK), dtype="uint8")
    rng = np.random.default_rng(0)
    for y in range(0, size, CHUNK):
        for x in range(0, size, CHUNK):
            rows, columns = slice(y, min(y + CHUNK, size)), slice(x, min(x + CHUNK, size))
            part = cells(size // pitch, pitch, rows, columns)
            labels[rows, columns] = part
            image[:, rows, columns] = np.where(part > 0, 90, 200).astype(np.uint8) + rng.integers(
                0, 40, (3, *part.shape), dtype=np.uint8)


def opened(folder: Path) -> tuple[Found, Image]:
    """What a segmentation leaves behind."""
    labels, image = zarr.open_array(folder / "labels", mode="r"), zarr.open_array(folder / "image", mode="r")
    grid = Grid.regular(labels.shape, 0.5, "um")
    table = {name: load_npy(folder / f"{name}.npy") for name in (folder / "columns").read_text().split()}
    return Found.of(labels, grid, table), Image(image, grid, ("red", "green", "blue"))


def ours(folder: Path, job: str) -> int:
    """One output of ours; returns how many objects."""
    found, image = opened(folder)
    if job == "table with intensities":
        write_csv(measured(found, image), folder / "a.csv")
    elif job == "GeoJSON with measurements":
        table = measured(found, image)
        write_geojson(Found.of(found.labels, found.grid, table), folder / "a.geojson")
    elif job == "GeoJSON":
        write_geojson(found, folder / "a.geojson")
    elif job == "regions of interest":
        write_rois(found, folder / "a.zip")
    elif job == "COCO":
        write_coco(found, folder / "a.json")
    return found.count


def rasterio_shapes(folder: Path, side: int) -> int:
    """Polygons of a part of the image by rasterio, written as GeoJSON."""
    from rasterio.features import shapes

    labels = np.asarray(zarr.open_array(folder / "labels", mode="r")[:side, :side]).astype(np.int32)
    features = [{"type": "Feature", "geometry": geometry, "properties": {"objectType": "detection", "name": int(value)}}
                for geometry, value in shapes(labels, mask=labels > 0, connectivity=4)]
    (folder / "b.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return len(features)


def scikit_image(folder: Path, side: int) -> int:
    """Outlines of a part, object by object, written as GeoJSON."""
    from skimage.measure import find_contours, regionprops

    labels = np.asarray(zarr.open_array(folder / "labels", mode="r")[:side, :side])
    features = []
    for region in regionprops(labels):
        rings = [(c + region.bbox[:2] - 1).tolist() for c in find_contours(np.pad(region.image, 1), 0.5)]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings},
                         "properties": {"objectType": "detection", "name": int(region.label)}})
    (folder / "c.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return len(features)


def scikit_image_table(folder: Path, side: int) -> int:
    """The same columns of a part."""
    from skimage.measure import regionprops_table

    labels = np.asarray(zarr.open_array(folder / "labels", mode="r")[:side, :side])
    image = np.moveaxis(np.asarray(zarr.open_array(folder / "image", mode="r")[:, :side, :side]), 0, -1)
    rows = regionprops_table(labels, image, properties=(
        "label", "area", "centroid", "bbox", "perimeter_crofton", "axis_major_length", "axis_minor_length",
        "eccentricity", "solidity", "intensity_mean", "intensity_std", "intensity_min", "intensity_max"))
    write_csv(rows, folder / "b.csv")
    return len(rows["label"])


WAYS = {"rasterio": rasterio_shapes, "scikit-image outlines": scikit_image, "scikit-image table": scikit_image_table}
OURS = ("table with intensities", "GeoJSON", "GeoJSON with measurements", "regions of interest", "COCO")


def one(queue, folder: Path, name: str, side: int) -> None:
    """One way in a process of its own, after a small warm-up that compiles."""
    small = folder / "small"
    (WAYS[name](small, 512) if name in WAYS else ours(small, name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, spent = time.monotonic(), time.process_time()
    count = WAYS[name](folder, side) if name in WAYS else ours(folder, name)
    queue.put({"way": name, "objects": count, "seconds": round(time.monotonic() - begun, 2),
               "processor_seconds": round(time.process_time() - spent, 2),
               "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
               "idle_mb": round(before / 1024)})


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20000)
    parser.add_argument("--pitch", type=int, default=20, help="pixels per cell; 20 makes a million cells")
    parser.add_argument("--part", type=int, default=2000, help="side of the part the others work on")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, size in ((folder, args.size), (folder / "small", 1024)):
            place.mkdir(exist_ok=True)
            make(place, size, args.pitch)
            table = boxed(zarr.open_array(place / "labels", mode="r"))
            for column, values in table.items():
                np.save(place / f"{column}.npy", values)
            (place / "columns").write_text(" ".join(table))
        for way in (*OURS, *WAYS):
            if way == "rasterio" and importlib.util.find_spec("rasterio") is None:
                continue
            queue = context.Queue()
            process = context.Process(target=one, args=(queue, folder, way, args.part))
            process.start()
            row = queue.get()
            process.join()
            row["microseconds_per_object"] = round(1e6 * row["processor_seconds"] / row["objects"], 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.json:
        record = {"machine": f"{platform.machine()}, one thread", "size": args.size, "pitch": args.pitch,
                  "part": args.part, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
