"""The forms in which a data set comes, and the exact pairing of images with labels: paths in, cases out.

Nothing here opens an image. Names are compared whole, after Unicode normalisation (a name written on macOS equals the
same name written elsewhere), never by pattern, so that case 1 does not find case 11 (fault D1).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ._endings import ENDINGS
from ._words import counted
from .description import Description
from .errors import DataError, FileError
from .io.sniff import ending

__all__ = ["Case", "UnpairedError", "common_start", "folder_cases", "glob_cases", "nnunet_cases", "stem"]

#: Folders that are part of a data set and none themselves.
_PARTS = frozenset({"images", "labels", "masks", "classes", "imagesTr", "labelsTr", "imagesTs"})


@dataclass(frozen=True)
class Case:
    """One image with its labels.

    Parameters
    ----------
    id : str
        Unique in the data set; deeper folders keep their relative path, with ``/``.
    group : str
        The patient, animal or slide; splits never cut a group.
    images : tuple of Path
        One file, or one per channel.
    labels : Path, optional
        A file, or a folder with one mask file per object.
    split : str, optional
        ``train``, ``val``, ``test`` or anything else a table says.
    attributes : dict of str
        All columns of the table the case comes from.
    classes : Path, optional
        A label image with the class of each voxel, for objects that have classes.
    """

    id: str
    group: str
    images: tuple[Path, ...]
    labels: Path | None = None
    split: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    classes: Path | None = None


class UnpairedError(DataError):
    """Files that do not pair; ``cases`` are those that do."""

    cases: tuple[Case, ...] = ()

    def beside(self, cases: Iterable[Case]) -> UnpairedError:
        """The error with the cases that can be read none the less."""
        self.cases = tuple(cases)
        return self


def stem(path: Path) -> str:
    """The name without its ending, Unicode-normalised.

    Examples
    --------
    >>> stem(Path("a/b.c.nii.gz")), stem(Path("x.OME.TIF"))
    ('b.c', 'x')
    """
    name = path.name
    tail = ending(name) or path.suffix
    return unicodedata.normalize("NFC", name[: len(name) - len(tail)] or name)


def walk(folder: Path, objects: Container[str] = ()) -> Iterator[Path]:
    """Yield the images below a folder in sorted order: files and zarr folders.

    A folder whose relative path is in ``objects`` is yielded itself (one mask file per object). Hidden files are
    passed over; symbolic links are followed, a link back to a folder it lies in is refused (fault D5).
    """
    yield from _walk(folder, folder, objects, (folder.resolve(),))


def _walk(folder: Path, root: Path, objects: Container[str], above: tuple[Path, ...]) -> Iterator[Path]:
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if not path.is_dir():
            if ending(path):
                yield path
            continue
        if ENDINGS.get(ending(path)) == "zarr":
            yield path
            continue
        real = path.resolve()
        if real in above:
            raise DataError("a symbolic link to a folder it lies in", file=path, expected="folders without loops",
                            remedy="remove the link")
        if _key(path, root) in objects:
            yield path
        else:
            yield from _walk(path, root, objects, (*above, real))


def _key(path: Path, root: Path) -> str:
    """Relative path without ending, with ``/``: the id of a case."""
    name = unicodedata.normalize("NFC", path.name) if path.is_dir() and not ending(path) else stem(path)
    parent = unicodedata.normalize("NFC", path.relative_to(root).parent.as_posix())
    return name if parent == "." else f"{parent}/{name}"


def _unique(paths: Iterable[Path], key: Callable[[Path], str], what: str) -> dict[str, Path]:
    """Paths by key; two paths with one key are refused, all listed."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(key(path), []).append(path)
    double = {k: v for k, v in found.items() if len(v) > 1}
    if double:
        raise DataError(f"{what} that share a name: " + _listing(f"{k} ({', '.join(p.name for p in v)})"
                                                                 for k, v in double.items()),
                        expected="one file per case", remedy="rename or remove the others")
    return {k: v[0] for k, v in found.items()}


_listing = ", ".join


def _pair(images: Mapping[str, Path], labels: Mapping[str, Path], where: str) -> list[Case]:
    """Cases from equal keys; every image without labels and every label without image is listed (fault D1)."""
    if not images:
        raise DataError("no image", file=where, expected=f"files ending in {', '.join(sorted(ENDINGS))}",
                        remedy="check the folder")
    missing, extra = sorted(set(images) - set(labels)), sorted(set(labels) - set(images))
    if labels and (missing or extra):
        parts = [f"{counted(len(missing), 'image')} without labels: {_listing(missing)}"] * bool(missing)
        parts += [f"{counted(len(extra), 'label file')} without image: {_listing(extra)}"] * bool(extra)
        globs, cores = _globs(images, labels)
        pairs = cores or {k: (k, k) for k in sorted(set(images) & set(labels))}
        raise UnpairedError("; ".join(parts), file=where, expected="the same names for images and labels",
                            remedy=globs or "rename, add or remove the files listed").beside(
            Case(k, k, (images[a],), labels[b]) for k, (a, b) in pairs.items())
    return [Case(k, k, (images[k],), labels.get(k)) for k in sorted(images)]


def common_start(names: Sequence[str]) -> str:
    """What all names begin with."""
    least, most = min(names), max(names)
    return least[:next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))]


def _globs(images: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[str, dict[str, tuple[str, str]]]:
    """A remedy that names the two globs which pair all files, and the pairs of keys by what the stars stand for.

    Nothing unless each side's names are one thing with an addition of its side.
    """
    sides = []
    for files in (images, labels):
        places = {(p.parent, p.name[len(p.name) - len(ending(p.name) or p.suffix):]) for p in files.values()}
        if len(places) > 1 or len(files) < 2 or any("/" in k or "*" in k or "?" in k for k in files):
            return "", {}
        before, after = common_start(list(files)), common_start([k[::-1] for k in files])[::-1]
        # the digits that all numbers begin or end with are parts of the numbers
        sides.append((*places.pop(), re.sub(r"\d+$", "", before), re.sub(r"^\d+", "", after)))
    cores = [{k[len(s[2]):len(k) - len(s[3])]: k for k in files}
             for files, s in zip((images, labels), sides, strict=True)]
    if set(cores[0]) != set(cores[1]):
        return "", {}
    globs = "::".join((folder / f"{before}*{after}{tail}").as_posix() for folder, tail, before, after in sides)
    return (f"name the files by two globs in place of the folder, '{globs}', or rename them",
            {core: (cores[0][core], cores[1][core]) for core in sorted(cores[0])})


def folder_cases(root: Path) -> list[Case]:
    """Cases of a folder with ``images/`` and ``labels/``, or of case folders with ``images/`` and ``masks/`` each.

    In ``labels/`` a folder named like the image holds one mask per object. Without ``labels/`` the cases have none.
    ``classes/`` holds label images with the class of each voxel, named like the images; some may be missing.
    """
    images, labels = root / "images", root / "labels"
    if images.is_dir():
        found = _unique(walk(images), lambda p: _key(p, images), "images")
        truth = _unique(walk(labels, found), lambda p: _key(p, labels), "labels") if labels.is_dir() else {}
        if labels.is_dir() and not truth:
            raise DataError("no labels", file=labels, expected="one file per image", remedy="add the labels, or remove "
                            "the empty folder for a data set without any")
        return _with_classes(_pair(found, truth, str(root)), root / "classes")
    cases = [_case_folder(p) for p in sorted(root.iterdir()) if (p / "images").is_dir() and (p / "masks").is_dir()]
    if not cases:
        raise _no_data_set(root)
    return cases


def _no_data_set(root: Path) -> DataError:
    """The error for a folder of no known form; its remedy names the data sets above or below the folder."""
    above, known = root.resolve().parent, ("images", "imagesTr")
    below = [p.name for p in sorted(root.iterdir()) if any((p / name).is_dir() for name in known)]
    remedy = ("arrange the files, write a CSV with columns image,label, or name them by two globs, "
              "'imgs/*.tif::imgs/*_mask.tif'")
    if root.resolve().name in _PARTS and any((above / name).is_dir() for name in known):
        remedy = f"give the folder above, {above}"
    elif below:
        shown = _listing(str(root / name) for name in below[:5]) + ", …" * (len(below) > 5)
        remedy = (f"give the folder below that you mean: {shown}; for several at once write a CSV with columns "
                  "image,label,split")
    return DataError("no data set", file=root, expected="images/ and labels/, an nnU-Net folder (imagesTr/, "
                     "labelsTr/), case folders with images/ and masks/, or a CSV file", remedy=remedy)


def _with_classes(cases: list[Case], folder: Path) -> list[Case]:
    """The cases with their class images, if there are any; one without image is refused (fault D1)."""
    if not folder.is_dir():
        return cases
    found = _unique(walk(folder), lambda p: _key(p, folder), "class images")
    extra = sorted(set(found) - {c.id for c in cases})
    if extra:
        raise DataError(f"{counted(len(extra), 'class image')} without image: {_listing(extra)}", file=folder,
                        expected="the names of the images", remedy="rename or remove the files listed")
    return [replace(c, classes=found.get(c.id)) for c in cases]


def _case_folder(folder: Path) -> Case:
    """``<case>/images/<one image>`` and ``<case>/masks/<one file per object>``."""
    images = list(walk(folder / "images"))
    if len(images) != 1:
        raise DataError(counted(len(images), "image"), file=folder / "images", expected="one image per case folder",
                        remedy="keep one")
    name = unicodedata.normalize("NFC", folder.name)
    return Case(name, name, (images[0],), folder / "masks")


def nnunet_cases(root: Path, about: Description) -> list[Case]:
    """Cases of an nnU-Net folder: ``imagesTr/<case>_0000.<ending>`` per channel and ``labelsTr/<case>.<ending>``.

    Without numbered channels (as in the Medical Segmentation Decathlon) images and labels are paired by equal names.
    """
    images_folder, labels_folder = root / "imagesTr", root / "labelsTr"
    if not labels_folder.is_dir():
        raise DataError("no labelsTr", file=root, expected="imagesTr/ and labelsTr/", remedy="add the labels")
    wanted = about.file_ending
    images = [p for p in walk(images_folder) if wanted is None or p.name.endswith(wanted)]
    truth = _unique((p for p in walk(labels_folder) if wanted is None or p.name.endswith(wanted)),
                    lambda p: _key(p, labels_folder), "labels")
    numbered: dict[str, dict[int, Path]] = {}
    for path in images:
        match = re.fullmatch(r"(.+)_(\d{4})", _key(path, images_folder))
        if match is None:
            return _pair(_unique(images, lambda p: _key(p, images_folder), "images"), truth, str(root))
        numbered.setdefault(match[1], {})[int(match[2])] = path
    channels = len(about.channel_names) or 1 + max((max(c) for c in numbered.values()), default=0)
    lacking = sorted(f"{name}_{c:04d}" for name in set(numbered) | set(truth) for c in range(channels)
                     if c not in numbered.get(name, {}))
    extra = sorted(f"{n}_{c:04d}" for n, found in numbered.items() for c in found if c >= channels or n not in truth)
    if lacking or extra or not truth:
        parts = [f"{counted(len(lacking), 'image file')} missing: {_listing(lacking)}"] * bool(lacking)
        parts += [f"{counted(len(extra), 'image file')} too many: {_listing(extra)}"] * bool(extra)
        whole = [n for n in sorted(truth) if set(range(channels)) <= set(numbered.get(n, {}))]
        raise UnpairedError("; ".join(parts) or "no case", file=root,
                            expected=f"{counted(channels, 'file')} <case>_0000 … in imagesTr per file in labelsTr",
                            remedy="add or remove the files listed, or correct channel_names").beside(
            _numbered(whole, numbered, channels, truth))
    return _numbered(sorted(truth), numbered, channels, truth)


def _numbered(names: Sequence[str], images: Mapping[str, Mapping[int, Path]], channels: int,
              labels: Mapping[str, Path]) -> list[Case]:
    """Cases of numbered channels."""
    return [Case(n, n, tuple(images[n][c] for c in range(channels)), labels[n]) for n in names]


def glob_cases(source: str) -> list[Case]:
    """Cases of two globs joined by ``::``, e.g. ``"imgs/*_raw.tif::masks/*_mask.tif"``.

    What the wildcards stand for must be equal on both sides and is the case's id. ``*`` and ``?`` stay within one
    folder, ``**`` crosses folders. A file that both match is a label.
    """
    sides = source.split("::")
    if len(sides) != 2 or not all(sides):
        raise DataError(f"{source!r}", expected="IMAGES::LABELS, two globs", remedy="quote them on the command line")
    (matched, key), (truth, label_key) = (_matches(s) for s in sides)
    known = set(truth)  # *.tif matches *_mask.tif, too
    images = _unique((p for p in matched if p not in known), key, sides[0])
    labels = _unique(truth, label_key, sides[1])
    if not labels:
        raise DataError("no file", file=sides[1], expected="labels", remedy="check the second glob")
    return _pair(images, labels, source)


def _matches(pattern: str) -> tuple[list[Path], Callable[[Path], str]]:
    """Files that match a glob, and the function that reads a case's id from a path."""
    pattern = Path(pattern).as_posix()
    if not re.search(r"[*?]", pattern):
        raise DataError(f"{pattern!r} without wildcard", expected="a glob with * or ?", remedy="quote it on the "
                        "command line, or write a CSV for single files")
    fixed = re.match(r"(?:[^*?]*/)?", pattern)
    root = Path(fixed[0] if fixed and fixed[0] else ".")
    if not root.is_dir():
        raise FileError("no such folder", file=root, remedy="check the glob")
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", unicodedata.normalize("NFC", pattern[len(fixed[0]) if fixed else 0:]))
    meaning = {"**/": r"((?:.*/)?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    regex = re.compile("".join(meaning.get(t, re.escape(t)) for t in tokens))

    def inner(path: Path) -> re.Match[str] | None:
        return regex.fullmatch(unicodedata.normalize("NFC", path.relative_to(root).as_posix()))

    def key(path: Path) -> str:
        match = inner(path)
        parts = [g.strip("/") for g in match.groups()] if match else []
        return "/".join(p for p in parts if p)

    return [p for p in walk(root) if inner(p)], key


def grouped(cases: list[Case], pattern: str | None) -> list[Case]:
    """The cases with groups read from their ids by a regular expression.

    Raises
    ------
    DataError
        Listing every id in which the expression is not found.
    """
    if pattern is None:
        return cases
    found = {c.id: re.search(pattern, c.id) for c in cases}
    without = [k for k, m in found.items() if m is None]
    if without:
        raise DataError(f"{counted(len(without), 'id')} without a match of {pattern!r}: {_listing(without)}",
                        expected="a group in every id", remedy="correct --group")
    names = {k: (m[1] if m.re.groups else m[0]) or k for k, m in found.items() if m}
    return [replace(c, group=names[c.id]) for c in cases]
