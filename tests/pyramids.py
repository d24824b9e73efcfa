"""Small slides and pyramids as scanners and programs write them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile

from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.io import ngff
from biosegkit.io import zarr as ome_zarr


def tissue(shape: tuple[int, int] = (700, 900), seed: int = 0) -> np.ndarray:
    """A coloured image that is smooth enough for JPEG, (y, x, 3)."""
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(0, 1, n) for n in shape)
    waves = [np.outer(np.sin(3 + a * y), np.cos(b * x)) for a, b in rng.uniform(2, 20, (3, 2))]
    return np.clip(np.stack(waves, -1) * 90 + 130, 0, 255).astype(np.uint8)


def halves(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Means of two by two pixels, again and again; a last row or column that is not full is dropped."""
    out = [image]
    for _ in range(levels):
        y, x = out[-1].shape[0] // 2, out[-1].shape[1] // 2
        four = out[-1][: 2 * y, : 2 * x].reshape(y, 2, x, 2, -1).mean((1, 3))
        out.append(np.rint(four).astype(image.dtype).reshape(y, x, *image.shape[2:]))
    return out


def subifds(path: Path, levels: list[np.ndarray], size: float | None = 0.25, **options: object) -> Path:
    """An OME-TIFF whose further levels are SubIFDs."""
    meta = {"axes": "YXS"[: levels[0].ndim]}
    if size:
        meta |= {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    options = {"tile": (128, 128), "compression": "zlib", **options}
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(levels[0], subifds=len(levels) - 1, metadata=meta, **options)
        for level in levels[1:]:
            out.write(level, subfiletype=1, **options)
    return path


def plain_pyramid(path: Path, levels: list[np.ndarray], **options: object) -> Path:
    """A TIFF whose levels are pages, the pixel size in its resolution tags (0.5 µm)."""
    with tifffile.TiffWriter(path) as out:
        for k, level in enumerate(levels):
            per_cm = 1e4 / 0.5 / 2**k
            out.write(level, tile=(128, 128), subfiletype=int(k > 0), resolution=(per_cm, per_cm),
                      resolutionunit="CENTIMETER", metadata=None, compression="zlib", **options)
    return path


def svs(path: Path, levels: list[np.ndarray], mpp: float | None = 0.5) -> Path:
    """Like an Aperio slide: baseline, thumbnail, further levels, label and macro image."""
    known = f"|AppMag = 20|MPP = {mpp}" if mpp else "|AppMag = 20"
    text = f"Aperio Image Library v11.2.1\r\n{levels[0].shape[1]}x{levels[0].shape[0]} (256x256) JPEG/RGB Q=70"
    options = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path) as out:
        out.write(levels[0], tile=(128, 128), description=text + known, **options)
        out.write(levels[-1], rowsperstrip=16, description=text, **options)
        for level in levels[1:]:
            out.write(level, tile=(128, 128), description=text, **options)
        out.write(levels[-1][:40], rowsperstrip=40, subfiletype=1, description="label", **options)
        out.write(levels[-1][:50], rowsperstrip=50, subfiletype=9, description="macro", **options)
    return path


def multiscale(path: Path, array: np.ndarray, spacing: tuple[float, ...], version: ngff.Version = "0.5") -> Path:
    """An OME-Zarr of ours, with small chunks and as many levels as that gives."""
    image = Image(array, Grid.regular(array.shape[1:], spacing, "um"))
    ome_zarr.write(image, path, version)
    return path


def ndpi(path: Path, levels: list[np.ndarray], mpp: float = 0.5, tile: int = 64) -> Path:
    """Like a Hamamatsu slide: one JPEG per level with restart markers, places of pages in 64 bits.

    Sides of the levels are multiples of 8, widths multiples of the tile.
    """
    out = bytearray(b"II*\0" + bytes(8))
    place = 4
    for k, level in enumerate(levels):
        file = io.BytesIO()
        PIL.Image.fromarray(level).save(file, "JPEG", quality=95, subsampling=0, restart_marker_blocks=tile // 8)
        jpeg = file.getvalue()
        scan = jpeg.index(b"\xff\xda")
        begin = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
        marks = [i + 2 for i in range(begin, len(jpeg) - 1) if jpeg[i] == 255 and 0xD0 <= jpeg[i + 1] <= 0xD7]
        per_cm, (height, width) = round(1e4 / mpp / 2**k), level.shape[:2]
        tags: list[tuple[int, str, list[float]]] = [
            (256, "I", [width]), (257, "I", [height]), (258, "H", [8, 8, 8]), (259, "H", [7]), (262, "H", [6]),
            (271, "s", list(b"Hamamatsu\0")), (273, "I", [len(out)]), (277, "H", [3]), (278, "I", [height]),
            (279, "I", [len(jpeg)]), (282, "R", [per_cm, 1]), (283, "R", [per_cm, 1]), (296, "H", [3]),
            (530, "H", [1, 1]), (65420, "I", [1]), (65421, "f", [20 / 2**k]), (65426, "I", [begin, *marks]),
        ]
        out += jpeg
        _page(out, place, tags)
        place = len(out) - 8 - 4 * len(tags)
    path.write_bytes(out)
    return path


def _page(out: bytearray, place: int, tags: list[tuple[int, str, list[float]]]) -> None:
    """Add a page whose own place is written at ``place``; the place of the next follows its entries, 0 so far."""
    entries = b""
    for code, kind, values in tags:
        letter = {"R": "I", "s": "B"}.get(kind, kind)
        data = struct.pack(f"<{len(values)}{letter}", *values)
        if len(data) > 4:
            data, more = struct.pack("<I", len(out)), data
            out += more
        number = {"H": 3, "I": 4, "R": 5, "s": 2, "f": 11}[kind]
        entries += struct.pack("<HHI", code, number, len(values) // (2 if kind == "R" else 1)) + data.ljust(4, b"\0")
    out[place : place + 8] = struct.pack("<Q", len(out))
    out += struct.pack("<H", len(tags)) + entries + bytes(8 + 4 * len(tags))


def scn(path: Path, regions: list[list[np.ndarray]], mpp: float = 0.5) -> Path:
    """Like a Leica slide: an image of the whole slide, then a pyramid for each region."""
    names = ["macro", *(f"region {i}" for i in range(len(regions)))]
    pages, images, ifd = [], "", 0
    for name, levels in zip(names, [[regions[0][-1][::4, ::4]], *regions], strict=True):
        size = 16.0 if name == "macro" else mpp
        pages += [(level, 1e4 / size / 2**k) for k, level in enumerate(levels)]
        told = "".join(f'<dimension r="{k}" ifd="{ifd + k}"/>' for k in range(len(levels)))
        images, ifd = f'{images}<image name="{name}"><pixels>{told}</pixels></image>', ifd + len(levels)
    text = f'<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>{images}</collection></scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for k, (level, per_cm) in enumerate(pages):
            out.write(level, tile=(64, 64), photometric="rgb", metadata=None, compression="zlib",
                      description=text if k == 0 else None, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    return path


def qptiff(path: Path, levels: list[np.ndarray], names: tuple[str, ...], mpp: float = 0.5, tile: int = 64) -> Path:
    """Levels (channels, y, x) as PerkinElmer stores them: a page per channel, a thumbnail after those of the finest."""
    def told(kind: str, name: str) -> str:
        return (f'<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription><ImageType>{kind}</ImageType><Name>{name}'
                "</Name></PerkinElmer-QPI-ImageDescription>")

    with tifffile.TiffWriter(path) as out:
        usual = {"software": "PerkinElmer-QPI", "metadata": None, "contiguous": False}
        for k, level in enumerate(levels):
            for channel, name in zip(level, names, strict=True):
                out.write(channel, description=told("ReducedResolution" if k else "FullResolution", name),
                          tile=(tile, tile), compression="zlib", photometric="minisblack", subfiletype=int(k > 0),
                          resolution=(1e4 / (mpp * 2**k),) * 2, resolutionunit="CENTIMETER", **usual)
            if k == 0:
                out.write(np.zeros((40, 50, 3), np.uint8), description=told("Thumbnail", ""), photometric="rgb",
                          **usual)
    return path


def dicom(folder: Path, levels: list[np.ndarray], size: float = 0.5, tile: int = 128) -> Path:
    """A slide as DICOM: a file per level, tiles one after the other, not compressed."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    study, series, frame = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))
    for k, level in enumerate(levels):
        height, width = level.shape[:2]
        padded = np.pad(level, ((0, -height % tile), (0, -width % tile), (0, 0)))
        tiles = padded.reshape(-1, tile, padded.shape[1] // tile, tile, 3).swapaxes(1, 2)
        slide = pydicom.Dataset()
        slide.SOPClassUID, slide.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", generate_uid(entropy_srcs=[str(k)])
        slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.FrameOfReferenceUID = study, series, frame
        slide.Modality, slide.PatientID, slide.InstanceNumber = "SM", "nobody", k + 1
        slide.ImageType = ["ORIGINAL" if k == 0 else "DERIVED", "PRIMARY", "VOLUME", "NONE" if k == 0 else "RESAMPLED"]
        slide.Rows = slide.Columns = tile
        slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = height, width
        slide.ImagedVolumeWidth, slide.ImagedVolumeHeight = width * size * 2**k / 1e3, height * size * 2**k / 1e3
        slide.ImagedVolumeDepth, slide.NumberOfFrames = 0.001, tiles.shape[0] * tiles.shape[1]
        slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "RGB", 0
        slide.BitsAllocated = slide.BitsStored = 8
        slide.HighBit, slide.PixelRepresentation, slide.DimensionOrganizationType = 7, 0, "TILED_FULL"
        slide.NumberOfOpticalPaths = slide.TotalPixelMatrixFocalPlanes = 1
        origin, path, measures, shared = (pydicom.Dataset() for _ in range(4))
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
        slide.TotalPixelMatrixOriginSequence, slide.ImageOrientationSlide = [origin], [0, -1, 0, -1, 0, 0]
        path.OpticalPathIdentifier, slide.OpticalPathSequence = "0", [path]
        measures.PixelSpacing, measures.SliceThickness = [size * 2**k / 1e3] * 2, 0.001
        shared.PixelMeasuresSequence, slide.SharedFunctionalGroupsSequence = [measures], [shared]
        slide.PixelData = np.ascontiguousarray(tiles).tobytes() + bytes(tiles.size % 2)
        slide.file_meta = pydicom.dataset.FileMetaDataset()
        slide.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slide.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder
