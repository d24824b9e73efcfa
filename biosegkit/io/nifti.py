"""NIfTI: geometry from one affine, gzip streams read to their end so that the checksum counts (F2, G3, §3)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError

from biosegkit._atomic import atomic_path
from biosegkit._words import counted
from biosegkit.errors import DataError, FileError
from biosegkit.grid import Grid, unit_factor
from biosegkit.image import Image, Labels, narrowed

from .options import ReadOptions
from .raw import Array, Raw, Window, check_claim, first_bytes, native

__all__ = ["raw", "write"]

_DEFLATE = 1032.0  # no deflate stream expands more (zlib technical notes)
_UNITS = {0: ("mm", 1.0), 1: ("mm", 1000.0), 2: ("mm", 1.0), 3: ("um", 1.0)}
_CODES = {"mm": 2, "um": 3, "nm": 3, "px": 0}
_PLANE = b"biosegkit 2D"  # the start of ``descrip``: the third axis is only there to reach the fifth
_PX = b"unit px"  # in ``descrip``: no physical unit, as the header's "unknown" is read as millimetres
_VECTOR = 1007  # NIFTI_INTENT_VECTOR: the fifth axis is channels


def raw(path: Path, options: ReadOptions, *, labels: bool = False) -> Raw:
    """Header, geometry and loader of a NIfTI-1 or NIfTI-2 file, plain or gzipped.

    Raises
    ------
    FileError
        For damaged, cut or lying files (F1, F2, F5).
    DataError
        For geometry or voxels that cannot be used (G4, G6, V8).
    """
    file = str(path)
    zipped = first_bytes(path, 2) == b"\x1f\x8b"
    header, offset = _header(path, zipped)
    notes: list[str] = []
    shape = _shape(header, file)
    stored = np.dtype(header.get_data_dtype())
    nbytes = math.prod(shape) * stored.itemsize
    size = path.stat().st_size
    check_claim(offset + nbytes, file, size, _DEFLATE if zipped else 1.0)
    scale = _scaling(header, file)
    axes, shape_out, dtype = _axes(header, shape, stored, notes)
    if dtype.kind not in "buif":
        native(dtype, file)
    if scale != (1.0, 0.0):
        dtype = np.dtype(np.float64 if labels or dtype.itemsize > 2 else np.float32)
    if bytes(header["descrip"]).startswith(_PLANE) and len(shape) == 5:  # our own 2D image with channels
        axes, shape_out = "xyc", (*shape[:2], shape[4])
    affine, unit = _geometry(header, shape[: 2 if "z" not in axes else 3], options, file, notes)

    def load() -> Array:
        flat = _voxels(path, zipped, offset, nbytes, stored)
        if stored.names:
            channels = flat.view(np.uint8).reshape((len(stored.names), *shape), order="F")
            return np.moveaxis(channels, 0, -1)
        return scaled(flat.reshape(shape_out, order="F"))

    def scaled(array: Array) -> Array:
        return array if scale == (1.0, 0.0) else array.astype(dtype) * dtype.type(scale[0]) + dtype.type(scale[1])

    def window(region: tuple[slice, ...]) -> Array:
        return scaled(np.array(np.memmap(path, stored, "r", offset, shape_out, order="F")[region]))

    regions: Window | None = None if zipped or stored.names else window
    return Raw(file, axes, shape_out, dtype, load, affine=affine, unit=unit, notes=tuple(notes), window=regions)


def _header(path: Path, zipped: bool) -> tuple[Any, int]:
    """The header object and where voxels start."""
    head = _guarded(path, zipped, lambda handle: handle.read(540))
    kind = nib.Nifti2Header if head[4:8] in (b"n+2\0", b"ni2\0") else nib.Nifti1Header
    need = 540 if kind is nib.Nifti2Header else 348
    if len(head) < need:
        raise FileError(counted(len(head), "byte"), file=path, expected=f"at least {need}, the header",
                        remedy="the file is cut; get it again from where it was made")
    try:
        header = kind(head[:need], check=False)
        header.get_data_dtype()
        offset = int(header["vox_offset"])
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise FileError(f"an unreadable NIfTI header ({error})", file=path,
                        remedy="get the file again from where it was made") from error
    if bytes(header["magic"]).startswith(b"ni"):
        raise FileError("a NIfTI header whose voxels are in another file (.hdr/.img)", file=path,
                        expected="one .nii or .nii.gz file", remedy="convert it: nib-convert INPUT.hdr OUTPUT.nii.gz")
    if offset < need:
        raise FileError(f"voxels at offset {offset}", file=path, expected=f"after the header of {need} bytes",
                        remedy="the header is damaged; get the file again")
    return header, offset


def _guarded(path: Path, zipped: bool, action: Callable[[IO[bytes]], Any]) -> Any:
    """Run ``action`` on the (decompressed) stream; damage becomes FileError with its offset (F1, F2)."""
    with path.open("rb") as plain:
        stream: Any = gzip.GzipFile(fileobj=plain) if zipped else plain
        try:
            return action(stream)
        except (EOFError, zlib.error, OSError) as error:
            cut = isinstance(error, EOFError)
            raise FileError(
                f"{'a cut' if cut else 'a damaged'} file ({error}) at offset {plain.tell()} of {path.stat().st_size}",
                file=path, expected="a whole file", remedy="copy or download it again",
            ) from error


def _shape(header: Any, file: str) -> tuple[int, ...]:
    """The stored shape (x, y, z, …), trailing ones kept, at least two axes."""
    dim = [int(d) for d in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(d < 1 for d in dim[1 : dim[0] + 1]):
        raise FileError(f"dimensions {dim}", file=file, expected="1 to 7 axes, none empty",
                        remedy="the header is damaged; get the file again")
    return tuple(dim[1 : dim[0] + 1]) + (1,) * (2 - dim[0])


def _scaling(header: Any, file: str) -> tuple[float, float]:
    """Slope and intercept; slope 0 means none (NIfTI-1 standard)."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # nibabel leaves NaN where no scaling is meant
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise FileError(f"intensity scaling {slope} x + {inter}", file=file, expected="finite numbers")
    return slope, inter


def _axes(header: Any, shape: tuple[int, ...], stored: np.dtype[Any], notes: list[str]
          ) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """Letters for the stored axes. Only axis 5 of a vector image is known to be channels (V10)."""
    letters = "xyztqqq"[: len(shape)]
    if len(shape) == 5 and int(header["intent_code"]) == _VECTOR:
        letters = "xyztc"
    if stored.names and all(stored[n] == np.uint8 for n in stored.names):
        notes.append(f"{len(stored.names)} colour samples per voxel read as channels")
        return letters + "s", (*shape, len(stored.names)), np.dtype(np.uint8)
    return letters, shape, stored


def _geometry(header: Any, shape: tuple[int, ...], options: ReadOptions, file: str, notes: list[str]
              ) -> tuple[Array, str]:
    """The affine for (z, y, x) indices and its unit. sform, else qform, else the diagonal of pixdim (G3, G6)."""
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    wide = [i for i, s in enumerate(shape[:3]) if s > 1]
    bad = [i for i in wide if not (np.isfinite(pixdim[i]) and pixdim[i] > 0)]
    if bad and options.spacing is None:
        raise DataError(f"pixdim {pixdim.tolist()}", file=file, expected="positive voxel sizes",
                        remedy="correct the header, or give --spacing")
    pixdim[[i for i in range(3) if not (np.isfinite(pixdim[i]) and pixdim[i] > 0)]] = 1.0
    affine = _affine(header, pixdim, file, notes)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    for i in range(3):
        if i not in wide and not lengths[i] > 0:  # a plane needs no third direction; give it the normal
            affine[:3, i] = np.cross(affine[:3, (i + 1) % 3], affine[:3, (i + 2) % 3])
            affine[:3, i] /= np.linalg.norm(affine[:3, i]) or 1.0
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not bad and not np.allclose(lengths[wide], pixdim[wide], rtol=1e-3):
        notes.append(f"voxel size {_short(lengths)} by the affine, {_short(pixdim)} by pixdim: the affine is used")
    unit, factor = _unit(header, notes)
    affine[:3] *= factor
    if len(shape) == 2:
        return affine[np.ix_([0, 1, 3], [1, 0, 3])], unit
    return affine[:, [2, 1, 0, 3]], unit


def _affine(header: Any, pixdim: Array, file: str, notes: list[str]) -> Array:
    """The affine for (x, y, z) indices."""
    sform = np.array(header.get_sform(), dtype=np.float64) if int(header["sform_code"]) > 0 else None
    qform = _qform(header, pixdim, notes) if int(header["qform_code"]) > 0 else None
    if sform is not None and not np.isfinite(sform).all():
        raise DataError(f"sform {sform.tolist()}", file=file, expected="finite numbers", remedy="repair the header")
    if sform is not None and qform is not None:
        size = np.array([max(int(d) - 1, 1) for d in header["dim"][1:4]])
        apart = np.abs((sform - qform)[:3, :3] * size).sum(axis=1) + np.abs(sform - qform)[:3, 3]
        rounding = _rounding(header, sform, size)
        if float(apart.max()) > 1e-3 * float(np.linalg.norm(sform[:3, :3], axis=0).min()) + rounding:
            notes.append(f"sform and qform differ by up to {apart.max():.3g}: sform is used")
    if sform is not None:
        return sform
    if qform is not None:
        return qform
    notes.append("neither sform nor qform in the header: voxel sizes only, orientation unknown")
    return np.diag([*pixdim, 1.0])


def _rounding(header: Any, sform: Array, size: Array) -> float:
    """How far apart two forms may be that were made from one affine: both are stored in float32.

    The quaternion's first number is the root of what the squares of the other three leave of 1. Near half turns next to
    nothing is left, and half of the digits are lost (NIfTI-1 standard, method 2).
    """
    error = 4 * float(np.finfo(np.float32).eps)
    left = max(0.0, 1.0 - sum(float(header[f"quatern_{axis}"]) ** 2 for axis in "bcd"))
    turn = 2 * (np.sqrt(left + error) - np.sqrt(left))
    extent = (np.abs(sform[:3, :3]) * size).sum(axis=1).max()
    return float(error * np.abs(sform[:3]).max() + turn * extent)


def _qform(header: Any, pixdim: Array, notes: list[str]) -> Array | None:
    """The affine of the quaternion (NIfTI-1 standard, method 2), or None where the quaternion is invalid."""
    try:
        rotation = quat2mat(header.get_qform_quaternion())
    except (HeaderDataError, ValueError):
        notes.append("the quaternion of the qform is invalid: not used")
        return None
    qfac = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    out = np.eye(4)
    out[:3, :3] = rotation * pixdim * np.array([1.0, 1.0, qfac])
    out[:3, 3] = [float(header[f"qoffset_{a}"]) for a in "xyz"]
    return out if np.isfinite(out).all() else None


def _unit(header: Any, notes: list[str]) -> tuple[str, float]:
    code = int(header["xyzt_units"]) & 7
    if code == 0 and _PX in bytes(header["descrip"]):
        return "px", 1.0
    if code not in (2, 3):
        notes.append({0: "no unit in the header: millimetres assumed", 1: "metres converted to millimetres"}.get(
            code, f"unknown unit code {code}: millimetres assumed"))
    return _UNITS.get(code, ("mm", 1.0))


def _short(values: Array) -> str:
    return "×".join(f"{v:.4g}" for v in values)


def _voxels(path: Path, zipped: bool, offset: int, nbytes: int, dtype: np.dtype[Any]) -> Array:
    """All voxels as a flat array; a gzip stream is read to its end, so that its checksum is verified (F2)."""

    def action(handle: IO[bytes]) -> Array:
        handle.read(offset)
        buffer = np.empty(nbytes, np.uint8)
        view, done = memoryview(buffer), 0  # type: ignore[arg-type]
        while done < nbytes:
            count = handle.readinto(view[done : done + (16 << 20)])  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"{nbytes - done} bytes of voxels are missing")
            done += count
        while handle.read(1 << 20):
            pass
        return buffer.view(dtype)

    out: Array = _guarded(path, zipped, action)
    return out


def write(item: Image | Labels, path: Path) -> None:
    """Write NIfTI-1 (NIfTI-2 above 32767 voxels along an axis) with sform and qform; labels in ≤ 32 bits (L1).

    Raises
    ------
    DataError
        For label values above 2³² − 1.
    """
    array = _storable(item, path)
    grid = item.grid
    kind = nib.Nifti2Image if max(grid.shape) > 32767 else nib.Nifti1Image
    affine = _world(grid)
    affine[:3] *= unit_factor("nm", "um") if grid.unit == "nm" else 1.0  # NIfTI knows no nanometres
    image = kind(array, affine, dtype=array.dtype)
    header = image.header
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header["xyzt_units"] = _CODES[grid.unit]
    header["descrip"] = _PLANE * (grid.ndim == 2) + b" " + _PX * (grid.unit == "px")
    if array.ndim == 5:
        header["intent_code"] = _VECTOR
    header.set_slope_inter(1.0, 0.0)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        if path.name.lower().endswith(".gz"):
            # no name and no time in the stream, so that equal labels are equal bytes
            with gzip.GzipFile(filename="", mode="wb", fileobj=handle, compresslevel=4, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(handle)


def _storable(item: Image | Labels, path: Path) -> Array:
    """Voxels as (x, y[, z[, 1, c]]) in a dtype NIfTI programs read."""
    if isinstance(item, Labels):
        values = item.restored()
        top = int(values.max(initial=0))
        if top > 0xFFFFFFFF:
            raise DataError(f"label value {top}", file=path, expected="at most 4294967295, as NIfTI programs read 32 "
                            "bits", remedy="write .tif or .ome.zarr, or renumber the labels")
        return np.asarray(narrowed(values).T)
    array = item.array
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        fits = next((t for t in (np.int32, np.uint32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max), None)
        if fits is None:
            raise DataError(f"64-bit intensities {low} to {high}", file=path, expected="at most 32 bits in NIfTI",
                            remedy="write .tif or .ome.zarr")
        array = array.astype(fits)
    array = array.astype(native(array.dtype, str(path)), copy=False)
    if array.shape[0] == 1:
        return np.asarray(array[0].T)
    channels_last = np.moveaxis(array, 0, -1)  # (z, y, x, c)
    space = channels_last.transpose(*reversed(range(item.grid.ndim)), item.grid.ndim)
    while space.ndim < 5:
        space = np.expand_dims(space, -2)
    return np.asarray(space)


def _world(grid: Grid) -> Array:
    """The 4 × 4 affine for (x, y, z) indices."""
    n = grid.ndim
    affine = np.eye(4)
    order = [*reversed(range(n))]
    affine[:n, :n] = grid.affine[:n, order]
    affine[:n, 3] = grid.affine[:n, n]
    return affine
