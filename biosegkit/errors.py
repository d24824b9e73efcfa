"""Errors and recorded findings: each says file, found, expected and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BiosegError", "Cancelled", "DataError", "FileError", "OptionError", "PlanError", "Problem", "ResumeError",
           "Stopped"]


class BiosegError(Exception):
    """An error a user can act on.

    Parameters
    ----------
    found : str
        What was found, with numbers.
    file : str or Path, optional
        The file (or case) concerned.
    expected : str, optional
        What would have been right.
    remedy : str, optional
        What the user can do now.

    Examples
    --------
    >>> print(BiosegError("shape (3, 4)", file="a.tif", expected="shape (3, 5)", remedy="export it again"))
    a.tif: found shape (3, 4); expected shape (3, 5). export it again
    """

    def __init__(
        self, found: str, *, file: str | Path | None = None, expected: str = "", remedy: str = ""
    ) -> None:
        self.file = None if file is None else str(file)
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(_sentence(self.file, found, expected, remedy))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process border."""
        return _rebuild, (type(self), self.found, self.file, self.expected, self.remedy)


def _rebuild(kind: type[BiosegError], found: str, file: str | None, expected: str, remedy: str) -> BiosegError:
    return kind(found, file=file, expected=expected, remedy=remedy)


def _sentence(file: str | None, found: str, expected: str, remedy: str) -> str:
    text = f"{file}: found {found}" if file else found
    if expected:
        text += f"; expected {expected}"
    return f"{text}. {remedy}" if remedy else text


class FileError(BiosegError):
    """A file that is missing, damaged, of another kind than its name says, or cannot be written."""


class DataError(BiosegError):
    """Voxels, geometry or labels that cannot be used as they are."""


class PlanError(BiosegError):
    """A plan, bundle or recipe that does not fit the code or the data."""


class ResumeError(BiosegError):
    """A run that cannot be continued because plan, data or code have changed."""


class OptionError(BiosegError):
    """A wrong combination of options (exit code 2 on the command line)."""


class Cancelled(BiosegError):
    """Work that was cancelled by whoever watches it (see `biosegkit.progress`); there is no result of it."""


class Stopped(BiosegError):
    """Work was asked to stop; what is done is saved and --resume goes on from it. ``signal`` asked for it."""

    signal: int = 2


@dataclass(frozen=True)
class Problem:
    """One finding of the doctor.

    ``code`` is the row of the fault list (``"G2"``); ``severity`` is ``"error"`` (training refuses) or
    ``"warning"`` (repaired or accepted, and recorded).

    Examples
    --------
    >>> found = Problem("L7", "error", "case 3", "labels/3.tif", "no foreground", "labelled voxels", "annotate it")
    >>> found.severity, found.remedy
    ('error', 'annotate it')
    """

    code: str
    severity: str
    case: str
    file: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """One line: severity, code, then the sentence."""
        sentence = _sentence(self.file or self.case, self.found, self.expected, self.remedy)
        return f"{self.severity} {self.code} {sentence}"
