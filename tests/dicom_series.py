"""DICOM series of slices, and enhanced files of frames, as the tests write them with pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom, of the extra dicom, is not installed")

__all__ = ["COLUMN", "CORNER", "NORMAL", "ROW", "enhanced", "series"]

ROW, COLUMN = np.array([0.0, 0.8, 0.6]), np.array([0.0, 0.6, -0.8])  # oblique, at right angles
NORMAL, CORNER = np.cross(ROW, COLUMN), np.array([-12.5, 7.0, 30.0])


def series(folder: Path, values: np.ndarray, *, spacing: tuple[float, float, float] = (2.5, 0.9, 0.7), **more: object
           ) -> Path:
    """Stored values (z, y, x) as a file per slice, in an order of names that is not that of places."""
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    for k, plane in enumerate(values):
        data = pydicom.Dataset()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[str(k)])
        data.SeriesInstanceUID = data.StudyInstanceUID = generate_uid(entropy_srcs=["series"])
        data.FrameOfReferenceUID, data.SeriesDescription = generate_uid(entropy_srcs=["frame"]), "thorax"
        data.Modality, data.InstanceNumber, data.PatientID, data.PatientName = "CT", 1, "nobody", "nobody"
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = int(plane.dtype.kind == "i")
        data.PixelSpacing, data.SliceThickness = list(spacing[1:]), 99.0  # thickness is no distance
        data.ImageOrientationPatient = [*ROW, *COLUMN]
        data.ImagePositionPatient = [round(float(v), 6) for v in CORNER + k * spacing[0] * NORMAL]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for name, value in more.items():
            setattr(data, name, value[k] if isinstance(value, list) and len(value) == len(values) else value)
        data.PixelData = plane.tobytes()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(folder / f"IM{(k * 5 + 3) % len(values):04}", enforce_file_format=True)
    (folder / "notes.txt").write_text("not an image")
    return folder


def enhanced(folder: Path, file: Path, **changes: object) -> Path:
    """The slices of a series as frames of one file, in the order of its names; their places in functional groups."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("IM*"))]
    data, each = slices[0], []
    for one in slices:
        place, scale, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = one.ImagePositionPatient
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = one.RescaleSlope, one.RescaleIntercept, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        each.append(frame)
    size, turn, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    size.PixelSpacing, turn.ImageOrientationPatient = data.PixelSpacing, data.ImageOrientationPatient
    size.SpacingBetweenSlices = 77.0  # is no distance, either
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [size], [turn]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], each
    data.NumberOfFrames, data.PixelData = len(slices), b"".join(one.PixelData for one in slices)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(data, name)
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(file, enforce_file_format=True)
    return file
