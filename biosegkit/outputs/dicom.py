"""DICOM SEG: a binary segment per class or object, in the patient's coordinates; needs the extra ``dicom``.

The file names the DICOM images it belongs to where they are given; else it stands for itself, with identifiers made of
the image's name and the labels, the same for the same. It is not streamed: the package that writes it holds the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit._atomic import atomic_path
from biosegkit._lazy import optional
from biosegkit._words import counted
from biosegkit.errors import DataError
from biosegkit.grid import Grid, unit_factor

from .geojson import colour_of
from .objects import Found

__all__ = ["dicom_holds", "write_dicom"]

#: A segment has a description of its own, and viewers list them all.
MOST_SEGMENTS = 1000
_MOST_VOXELS = 1 << 29
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Bytes of segments from which the file is deflated: each object of a slide is a whole frame, nearly all of it zeros.
LARGE = 1 << 26
_DEFLATED = "1.2.840.10008.1.2.1.99"


def write_dicom(found: Found, path: str | Path, reference: Sequence[Any] = ()) -> None:
    """Write labels as a DICOM Segmentation; the file appears only when whole.

    Parameters
    ----------
    found : Found
        Every row of its table is a segment, called by the name of its class or the id of its object. Where nothing was
        found, one empty segment says so.
    path : path
        Ending in ``.dcm``.
    reference : sequence of pydicom Dataset
        The images that were segmented: their study, patient and frame of reference become those of the file.

    Raises
    ------
    DataError
        Without a physical voxel size, with more than 1000 segments, or more than 2**29 voxels.
    OptionError
        If the package is not installed.

    Notes
    -----
    DICOM's axes point left, posterior and superior; those of a grid right, anterior and superior. Segments say
    "tissue" of themselves, as what the classes are is known to nobody but who named them. More than 64 MB of segments
    are written deflated (transfer syntax 1.2.840.10008.1.2.1.99).
    """
    seg, highdicom = optional("highdicom.seg"), optional("highdicom")
    dicom_holds(found.grid, found.count, found.source)
    labels = _segments(found)
    name = found.source.encode(errors="surrogatepass")
    digest = hashlib.sha256(name + np.ascontiguousarray(labels).tobytes()).digest()
    frame = reference[0].FrameOfReferenceUID if reference else _uid(digest, b"f")
    volume = highdicom.Volume(labels, _affine(found.grid), coordinate_system="PATIENT", frame_of_reference_uid=frame)
    made = seg.Segmentation(
        source_images=list(reference) or [_nobody(found, digest, frame)],
        pixel_array=volume, segmentation_type="BINARY", segment_descriptions=_descriptions(found),
        series_instance_uid=_uid(digest, b"series"), series_number=1, sop_instance_uid=_uid(digest, b"instance"),
        instance_number=1, manufacturer="biosegkit", manufacturer_model_name="biosegkit",
        software_versions=metadata.version("biosegkit"), device_serial_number="0", content_label="SEGMENTATION",
        omit_empty_frames=True)
    made.SeriesDescription = "biosegkit, not for diagnosis"
    if not reference:
        _without_references(made)
    if len(made.PixelData) > LARGE:
        made.file_meta.TransferSyntaxUID = _DEFLATED
    with atomic_path(path) as temporary:
        made.save_as(temporary)


def dicom_holds(grid: Grid, count: int, source: str = "") -> None:
    """Refuse what a segmentation in patients' coordinates cannot be.

    Parameters
    ----------
    grid : Grid
        Of the labels.
    count : int
        Objects, or classes.
    source : str
        Name of the image.

    Raises
    ------
    DataError
        As :func:`write_dicom`.
    """
    where = source or None
    if grid.unit == "px":
        raise DataError("no voxel size", file=where, expected="spacing in mm, um or nm for a DICOM Segmentation",
                        remedy="give it with --spacing and --unit, or --pixel-size")
    if count > MOST_SEGMENTS:
        raise DataError(counted(count, "object"), file=where,
                        expected=f"at most {MOST_SEGMENTS} for a DICOM Segmentation",
                        remedy="use GeoJSON, regions of interest or COCO for many objects")
    if grid.voxels > _MOST_VOXELS:
        raise DataError(f"{' × '.join(map(str, grid.shape))} voxels", file=where, remedy="use GeoJSON instead",
                        expected=f"at most {_MOST_VOXELS} for a DICOM Segmentation")


def _segments(found: Found) -> npt.NDArray[np.uint16]:
    """Row of every voxel's object plus one, (z, y, x)."""
    ids = np.asarray(found.table["id"], np.int64)
    order = np.argsort(ids)
    known, number = np.append(ids[order], -1), np.append(order + 1, 0)
    labels = np.asarray(found.labels[...])
    place = np.searchsorted(known[:-1], labels)
    rows = np.where(known[place] == labels, number[place], 0).astype(np.uint16)
    if np.count_nonzero(rows) != np.count_nonzero(labels):
        raise DataError("ids that are not in the table", file=found.source or None,
                        expected="labels and table of one image", remedy="use the table the labels came with")
    return rows[None] if rows.ndim == 2 else rows


def _affine(grid: Grid) -> npt.NDArray[np.float64]:
    """From the index (z, y, x) to left, posterior, superior in millimetres, directions exactly at right angles."""
    factor = unit_factor(grid.unit, "mm")
    left, _, right = np.linalg.svd(grid.direction)
    axes = (left @ right) * np.array(grid.spacing) * factor
    origin = grid.affine[:-1, -1] * factor
    affine = np.eye(4)
    if grid.ndim == 3:
        affine[:3, :3], affine[:3, 3] = axes, origin
    else:
        affine[:2, 1:3], affine[:2, 3] = axes, origin
        affine[:3, 0] = 0, 0, min(grid.spacing) * factor
        affine[2, 1:3] = 0
    affine[:2] *= -1
    return affine


def _descriptions(found: Found) -> list[Any]:
    """Number, name, colour and origin of every segment."""
    seg, highdicom, codes = optional("highdicom.seg"), optional("highdicom"), optional("pydicom.sr.codedict").codes
    by = highdicom.AlgorithmIdentificationSequence(
        name="biosegkit", version=metadata.version("biosegkit"), family=codes.DCM.ArtificialIntelligence)
    made = []
    for k, label in enumerate(_segment_names(found)):
        digest = hashlib.sha256(f"{found.source}:{label}".encode(errors="surrogatepass")).digest()
        description = seg.SegmentDescription(
            segment_number=k + 1, segment_label=label[:64], segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue, algorithm_type="AUTOMATIC", algorithm_identification=by,
            tracking_id=label[:64], tracking_uid=_uid(digest, b"t"))
        description.RecommendedDisplayCIELabValue = _cielab(colour_of(k))
        made.append(description)
    return made


def _segment_names(found: Found) -> list[str]:
    """What segments are called; one is there even if nothing was found."""
    if not found.count:
        return ["nothing found"]
    if "class" not in found.table:
        return [f"object {number}" for number in found.table["id"].tolist()]
    names = [found.classes.get(value, f"class {value}") for value in np.asarray(found.table["class"]).tolist()]
    if len(set(names)) == len(names):
        return names
    return [f"{name} {number}" for name, number in zip(names, found.table["id"].tolist(), strict=True)]


def _cielab(colour: tuple[int, int, int]) -> list[int]:
    """A colour as DICOM writes it: CIELab, 16 bits each."""
    from skimage.color import rgb2lab

    light, a, b = rgb2lab(np.array(colour, float) / 255)
    return [round(light / 100 * 65535), round((a + 128) / 255 * 65535), round((b + 128) / 255 * 65535)]


def _nobody(found: Found, digest: bytes, frame: str) -> Any:
    """An image without patient, for a file that stands for itself."""
    data = optional("pydicom").Dataset()
    data.SOPClassUID, data.SOPInstanceUID = _SECONDARY_CAPTURE, _uid(digest, b"image")
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(digest, b"study"), _uid(digest, b"source")
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    data.PatientID = Path(found.source).name[:64] or "unknown"
    data.PatientName = data.PatientBirthDate = data.PatientSex = data.AccessionNumber = data.StudyID = ""
    data.StudyDate = data.StudyTime = data.ReferringPhysicianName = ""
    data.Rows, data.Columns = found.labels.shape[-2:]
    data.ImagePositionPatient, data.ImageOrientationPatient = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    data.PixelSpacing, data.SliceThickness, data.Modality = [1.0, 1.0], 1.0, "OT"  # asked for; the volume has its own
    return data


def _without_references(made: Any) -> None:
    """Leave out what points to an image that does not exist."""
    for name in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if name in made:
            delattr(made, name)
    for frame in made.PerFrameFunctionalGroupsSequence:
        if "DerivationImageSequence" in frame:
            del frame.DerivationImageSequence


def _uid(digest: bytes, use: bytes) -> str:
    """An identifier under the root for UUIDs (ISO/IEC 9834-8)."""
    value = int.from_bytes(hashlib.sha256(digest + use).digest()[:16], "big")
    value = value & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 2 << 62
    return f"2.25.{value}"
