"""Intensities to network input: statistics once per image, then the same arithmetic on any block of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from biosegkit.errors import DataError, OptionError

from ._words import counted

SLAB = 2**22  # voxels looked at together: bounds memory
EXACT = 2**24  # up to here percentiles use every voxel
SAMPLE = 2**22  # beyond, this many
TOGETHER = 8  # channels read together
RELATIVE_FLOOR = 1e-13  # of the largest magnitude: spread below this is rounding of doubles

Channel = dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """How to normalise one image.

    Attributes
    ----------
    channels : tuple of dict of str to float
        Per channel: clip to [`low`, `high`], subtract `offset`, divide by `scale`; `fill` replaces what is not finite;
        `masked` is 1 where voxels outside the mask become 0.
    notes : tuple of str
        What is unusual about the image; to be shown as warnings.
    nothing : bool
        Every channel is constant and became zeros: there is nothing to see (fault V4).
    filled : bool
        Voxels that are not finite take the `fill` of their channel (fault V1).
    """

    channels: tuple[Channel, ...]
    notes: tuple[str, ...] = ()
    nothing: bool = False
    filled: bool = False


@dataclass(frozen=True)
class _Moments:
    """Count, finite count, mean, standard deviation and range of one channel."""

    count: int
    finite: int
    mean: float
    std: float
    low: float
    high: float

    @property
    def constant(self) -> bool:
        """Nothing but rounding to divide by."""
        return self.high - self.low <= RELATIVE_FLOOR * max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class _Request:
    """What a scheme may look at."""

    channel: int
    moments: _Moments
    sample: npt.NDArray[Any]
    dataset: Mapping[str, float]
    percentiles: tuple[float, float]


def statistics(
    image: Any,
    schemes: str | Sequence[str],
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    dataset: Sequence[Mapping[str, float]] = (),
    percentiles: tuple[float, float] = (1.0, 99.8),
    seed: int = 0,
) -> Statistics:
    """Measure what normalisation needs, once for the whole image.

    Parameters
    ----------
    image : array, (C, *space)
        Anything with shape, dtype and slicing, such as a lazily read array; looked at in slabs.
    schemes : str or sequence of str
        Keys of `SCHEMES`, one for all channels or one each.
    mask : ndarray of bool, (*space), optional
        Z-score takes its statistics here and leaves 0 outside. See `nonzero_mask`.
    dataset : sequence of dict, optional
        Per channel the training set's foreground `low`, `high`, `mean` and `std`; needed by ``"ct"``.
    percentiles : tuple of float
        For ``"percentile"``: mapped to 0 and 1. Values beyond are not clipped, as the objects themselves may be
        beyond where they are few and bright.
    seed : int
        Of the sample that stands for images of more than 2**24 voxels.

    Returns
    -------
    Statistics

    Raises
    ------
    OptionError
        For an unknown scheme, or another number of schemes than channels.
    DataError
        If the values do not fit the scheme.

    Notes
    -----
    As in nnU-Net (Isensee et al. 2021). Values that are not finite are left out; a constant channel becomes zeros.

    Examples
    --------
    >>> image = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    >>> apply(image, statistics(image, "rescale_to_0_1"))[0, 1, 3]
    np.float32(1.0)
    """
    names = (schemes,) * image.shape[0] if isinstance(schemes, str) else tuple(schemes)
    if len(names) != image.shape[0] or not set(names) <= set(SCHEMES):
        raise OptionError(
            f"schemes {names} for {counted(image.shape[0], 'channel')}",
            expected=f"one per channel of {', '.join(SCHEMES)}",
            remedy="correct the channels of the plan",
        )
    found: list[Channel] = []
    notes: list[str] = []
    constant = 0
    for channel, (name, (moments, sample)) in enumerate(zip(names, _looked_at(image, names, mask, seed), strict=True)):
        of_dataset = dataset[channel] if channel < len(dataset) else {}
        request = _Request(channel, moments, sample, of_dataset, percentiles)
        masked = float(name == "zscore" and mask is not None)
        entry = {"low": -math.inf, "high": math.inf, "fill": moments.low, "masked": masked}
        if moments.constant and name in ("zscore", "rescale_to_0_1", "percentile"):
            entry |= {"offset": moments.low, "scale": 1.0}
            constant += 1
            notes.append(f"channel {channel} is constant ({moments.low:g}): normalised to zeros")
        else:
            entry |= SCHEMES[name](request)
        if moments.finite < moments.count:
            bad = moments.count - moments.finite
            notes.append(f"channel {channel}: NaN or infinity in {counted(bad, 'voxel')}, taken as its minimum "
                         f"{moments.low:g}")
        if entry.pop("widened", 0.0):
            notes.append(f"channel {channel}: percentiles {percentiles} are equal, its full range is used")
        found.append(entry)
    filled = any("NaN or infinity" in note for note in notes)
    return Statistics(tuple(found), tuple(notes), nothing=constant == len(names), filled=filled)


def apply(
    block: npt.NDArray[Any], measured: Statistics, mask: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """Normalise an image or any block of it; each voxel's result does not depend on the block.

    Parameters
    ----------
    block : ndarray, (C, *space)
        Raw values.
    measured : Statistics
        Of the whole image.
    mask : ndarray of bool, (*space), optional
        The same part of the mask the statistics were measured with.

    Returns
    -------
    ndarray of float32, (C, *space)

    Raises
    ------
    OptionError
        If the channels differ, or the mask is missing.

    Examples
    --------
    >>> image = np.array([[1.0, np.nan, 3.0]])
    >>> apply(image, statistics(image, "zscore")).tolist()
    [[-1.0, -1.0, 1.0]]
    """
    if len(measured.channels) != block.shape[0]:
        raise OptionError(
            f"a block of {counted(block.shape[0], 'channel')}", expected=f"{len(measured.channels)}",
            remedy="give (C, *space)",
        )
    out = np.empty(block.shape, np.float32)
    for values, result, entry in zip(block, out, measured.channels, strict=True):
        result[...] = _normalized(values, entry)
        if entry["masked"]:
            if mask is None:
                raise OptionError("no mask", expected="the mask of the statistics", remedy="give mask=")
            result[~mask] = 0.0
    return out


def nonzero_mask(image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where any channel is not zero, holes filled.

    Parameters
    ----------
    image : ndarray, (C, *space)

    Returns
    -------
    ndarray of bool, (*space)

    Examples
    --------
    >>> nonzero_mask(np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]]])).sum()
    np.int64(9)
    """
    mask = np.zeros(image.shape[1:], bool)
    for values in image:
        mask |= values != 0
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def nonfinite_mask(block: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Voxels where any channel is NaN or infinite: what `apply` filled.

    Examples
    --------
    >>> nonfinite_mask(np.array([[1.0, np.inf]])).tolist()
    [False, True]
    """
    mask = np.zeros(block.shape[1:], bool)
    if block.dtype.kind == "f":
        for values in block:
            mask |= ~np.isfinite(values)
    return mask


def _normalized(values: npt.NDArray[Any], entry: Channel) -> npt.NDArray[Any]:
    """One channel of a block, in single precision where that loses nothing."""
    small = values.dtype.kind in "biu" and values.dtype.itemsize <= 2
    single = small or values.dtype in (np.float32, np.float16)
    precise = not single or abs(entry["offset"]) > 1e3 * entry["scale"]
    work: npt.NDArray[Any] = values.astype(np.float64 if precise else np.float32)
    if values.dtype.kind == "f":
        work[~np.isfinite(work)] = entry["fill"]
    if math.isfinite(entry["low"]) or math.isfinite(entry["high"]):
        np.clip(work, entry["low"], entry["high"], out=work)
    work -= entry["offset"]
    work /= entry["scale"]
    return work


def _zscore(request: _Request) -> Channel:
    return {"offset": request.moments.mean, "scale": request.moments.std}


def _ct(request: _Request) -> Channel:
    wanted = ("low", "high", "mean", "std")
    if not set(wanted) <= set(request.dataset) or not request.dataset["std"] > 0:
        raise OptionError(
            f"statistics {dict(request.dataset)} of channel {request.channel}",
            expected=f"the training set's {', '.join(wanted)} with std above 0",
            remedy="measure the dataset again, or choose zscore for this channel",
        )
    low, high, mean, std = (request.dataset[key] for key in wanted)
    return {"low": low, "high": high, "offset": mean, "scale": std}


def _range(request: _Request) -> Channel:
    return {"offset": request.moments.low, "scale": request.moments.high - request.moments.low}


def _rgb(request: _Request) -> Channel:
    low, high = request.moments.low, request.moments.high
    if low < 0 or high > 255:
        raise DataError(
            f"values from {low:g} to {high:g} in channel {request.channel}",
            expected="0 to 255 for rgb_to_0_1",
            remedy="convert the image to 8 bit, or choose zscore or percentile for this channel",
        )
    return {"offset": 0.0, "scale": 255.0}


def _none(_request: _Request) -> Channel:
    return {"offset": 0.0, "scale": 1.0}


def _percentile(request: _Request) -> Channel:
    low, high = (float(v) for v in np.percentile(request.sample, request.percentiles))
    if high - low > RELATIVE_FLOOR * max(abs(low), abs(high)):
        return {"offset": low, "scale": high - low}
    # Sparse objects on an even background: the image has contrast although its percentiles have none.
    return _range(request) | {"widened": 1.0}


SCHEMES: Mapping[str, Callable[[_Request], Channel]] = MappingProxyType(
    {
        "zscore": _zscore,
        "ct": _ct,
        "rescale_to_0_1": _range,
        "rgb_to_0_1": _rgb,
        "percentile": _percentile,
        "none": _none,
    }
)


def _slabs(image: Any) -> Iterator[slice]:
    """Slices along the first spatial axis of about `SLAB` voxels; they depend on the shape alone."""
    rows = image.shape[1]
    step = max(1, SLAB // max(1, math.prod(image.shape[2:])))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _looked_at(image: Any, names: Sequence[str], mask: npt.NDArray[np.bool_] | None,
               seed: int) -> list[tuple[_Moments, npt.NDArray[Any]]]:
    """Moments, and for percentiles a sample, of every channel; all channels are read together, once."""
    voxels, row = math.prod(image.shape[1:]), math.prod(image.shape[2:])
    if all(_says_nothing(name, image.dtype) for name in names):
        return [(_Moments(voxels, voxels, 0.0, 0.0, 0.0, 0.0), np.zeros(0))] * len(names)
    running = [_Running() for _ in names]
    picked: list[npt.NDArray[np.int64] | None] = [None] * len(names)
    if voxels > EXACT:
        picked = [np.sort(np.random.default_rng([seed, channel]).integers(0, voxels, SAMPLE)) if n == "percentile"
                  else None for channel, n in enumerate(names)]
    samples: list[list[npt.NDArray[Any]]] = [[] for _ in names]
    for group in range(0, len(names), TOGETHER):
        for rows in _slabs(image):
            block = np.asarray(image[group : group + TOGETHER, rows])
            for channel, slab in enumerate(block, group):
                running[channel].add(slab[mask[rows]] if mask is not None and names[channel] == "zscore" else slab)
                if names[channel] == "percentile":
                    samples[channel].append(_picked(slab.reshape(-1), picked[channel], rows.start * row))
    return [(r.moments, _joined(s)) for r, s in zip(running, samples, strict=True)]


def _says_nothing(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether a scheme takes whole numbers of this type as they are, whatever they are."""
    return dtype.kind in "biu" and (name in ("none", "ct") or (name == "rgb_to_0_1" and dtype.itemsize == 1
                                                                and dtype.kind != "i"))


@dataclass
class _Running:
    """Mean and spread in one pass, slab by slab (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    finite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: npt.NDArray[Any]) -> None:
        """One more slab."""
        values = values.reshape(-1)
        self.count += values.size
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        exact = values.astype(np.float64)
        here = float(exact.mean())
        exact -= here
        total = self.finite + exact.size
        exact *= exact  # summed by numpy, whose result does not depend on the number of threads as a dot product's does
        self.squares += float(exact.sum()) + (here - self.mean) ** 2 * self.finite * exact.size / total
        self.mean += (here - self.mean) * exact.size / total
        self.finite = total

    @property
    def moments(self) -> _Moments:
        """Of all slabs."""
        if not self.finite:
            return _Moments(self.count, 0, 0.0, 0.0, 0.0, 0.0)
        spread = math.sqrt(self.squares / self.finite)
        return _Moments(self.count, self.finite, self.mean, spread, self.low, self.high)


def _picked(values: npt.NDArray[Any], picked: npt.NDArray[np.int64] | None, start: int) -> npt.NDArray[Any]:
    """The finite values of a slab, or of a large image those of a sample that depends on shape and seed alone."""
    if picked is not None:
        first, last = np.searchsorted(picked, (start, start + values.size))
        values = values[picked[first:last] - start]
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """A sample of all slabs; empty where none was taken."""
    sample: npt.NDArray[Any] = np.concatenate(parts) if parts else np.zeros(0)
    return sample.astype(np.uint8) if sample.dtype.kind == "b" else sample
