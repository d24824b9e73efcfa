"""Who trains and who validates: a patient or slide (``group``) is never cut (fault D3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ._words import counted
from .errors import OptionError, Problem
from .layouts import Case, common_start

__all__ = ["chosen_folds", "group_problems", "holdout", "shares", "split_folds", "split_notes", "suggested_groups",
           "trainable"]

Fold = tuple[tuple[str, ...], tuple[str, ...]]

_TRAIN = frozenset({"train", "training", "tr"})
_VALIDATION = frozenset({"val", "valid", "validation", "dev"})


def trainable(cases: Sequence[Case]) -> list[Case]:
    """The cases that may be learnt from: where a table names some ``train`` or ``val``, the others stay out.

    A table that names neither (or no table) leaves all cases in.

    Examples
    --------
    >>> rows = [Case("a", "a", (), split="train"), Case("b", "b", (), split="test")]
    >>> [c.id for c in trainable(rows)], [c.id for c in trainable(rows[1:])]
    (['a'], ['b'])
    """
    known = [c for c in cases if _is(c, _TRAIN) or _is(c, _VALIDATION)]
    return known or list(cases)


def split_folds(cases: Sequence[Case], folds: int, seed: int = 12345) -> list[Fold]:
    """Cut the cases into folds for cross-validation: (training ids, validation ids) of each, sorted.

    Groups are shuffled by ``default_rng([seed, 0])`` from sorted order, then the largest first go to the fold with
    the fewest cases. nnU-Net's rule is the same for groups of one case (shuffled k folds, seed 12345), but the order
    of its older random generator is not reproduced: give its folds by a column ``fold``, 0, 1, … for every case.

    A table's ``train`` and ``val`` rows are one fold, as they are. Fewer groups than folds give as many folds as
    groups; one group gives one fold that validates on its own training cases (fault D4): see :func:`split_notes`.

    Raises
    ------
    OptionError
        For less than one fold, or no case.

    Examples
    --------
    >>> rows = [Case(f"{g}{i}", g, ()) for g in "abc" for i in range(2)]
    >>> [validation for _, validation in split_folds(rows, 3)]
    [('a0', 'a1'), ('c0', 'c1'), ('b0', 'b1')]
    """
    cases = trainable(cases)
    if folds < 1 or not cases:
        raise OptionError(f"{counted(folds, 'fold')} of {counted(len(cases), 'case')}", expected="at least 1 of each")
    given = _given(cases)
    if given is not None:
        return given
    if folds == 1:
        return [holdout(cases, 0.2, seed)]
    bins = _bins(cases, min(folds, len({c.group for c in cases})), seed)
    if len(bins) < 2:
        everything = tuple(sorted(c.id for c in cases))
        return [(everything, everything)]
    return [_fold(cases, bins[k]) for k in range(len(bins))]


def holdout(cases: Sequence[Case], fraction: float, seed: int = 12345) -> Fold:
    """One split: whole groups, at random, until ``fraction`` of the cases validate; at least one group on each side.

    A group larger than that share does not begin while there is a smaller one, so that few unequal groups leave the
    larger part to training. Rows that a table names ``train`` and ``val`` are taken as they are. A single group
    validates on itself.
    """
    cases = trainable(cases)
    given = _given(cases)
    if given is not None:
        return given[0]
    names = _shuffled(cases, seed)
    if len(names) < 2:
        everything = tuple(sorted(c.id for c in cases))
        return everything, everything
    sizes = _sizes(cases)
    largest = max(fraction * len(cases), min(sizes.values()))
    first = next(name for name in names if sizes[name] <= largest)
    chosen: set[str] = {first}
    for name in [n for n in names if n != first][:-1]:
        held = sum(sizes[n] for n in chosen)
        # A further group is taken only if that brings the share nearer to what was asked for.
        if held + sizes[name] / 2 <= fraction * len(cases):
            chosen.add(name)
    return _fold(cases, chosen)


def shares(cases: Sequence[Case], count: int, fraction: float) -> list[Fold]:
    """Up to ``count`` splits that hold back different shares of about ``fraction`` of the cases.

    Fewer where the table or the groups give fewer.

    Examples
    --------
    >>> rows = [Case(f"{k}", f"{k}", ()) for k in range(4)]
    >>> [validation for _, validation in shares(rows, 2, 0.25)]
    [('2',), ('0',)]
    """
    if count == 1:
        return [holdout(cases, fraction)]
    return split_folds(cases, max(count, round(1 / fraction)))[:count]


def chosen_folds(cases: Sequence[Case], folds: Sequence[int] | str) -> dict[int, Fold]:
    """The folds of a five-fold cross-validation by number: those named, or ``"all"``.

    Raises
    ------
    OptionError
        For a number there is no fold of.

    Examples
    --------
    >>> rows = [Case(f"{k}", f"{k}", ()) for k in range(5)]
    >>> chosen_folds(rows, [3])
    {3: (('0', '1', '3', '4'), ('2',))}
    """
    every = split_folds(cases, 5)
    wanted = range(len(every)) if folds == "all" else [int(f) for f in folds]
    if not wanted or max(wanted) >= len(every) or min(wanted) < 0:
        raise OptionError(f"folds {list(wanted)}", expected=f"numbers from 0 to {len(every) - 1}",
                          remedy="correct --folds")
    return {f: every[f] for f in wanted}


def split_notes(cases: Sequence[Case], folds: int) -> list[str]:
    """What :func:`split_folds` had to change about the request, for the plan (fault D4)."""
    inside = trainable(cases)
    groups = len({c.group for c in inside})
    notes = []
    if len(inside) < len(cases):
        notes.append(f"{counted(len(cases) - len(inside), 'case')} left out that the table names neither train nor val")
    if any(_is(c, _VALIDATION) for c in inside) and any(_is(c, _TRAIN) for c in inside):
        return [*notes, "the table's train and val rows are used as they are"]
    if all(c.attributes.get("fold", "").isdigit() for c in inside):
        return [*notes, "the table's column fold is used as it is"]
    if groups == 1:
        notes.append(f"{counted(len(inside), 'case')} of a single group: validation uses the training cases, so that "
                     "its scores say how well they were learnt, not how well others will be segmented")
    elif groups < folds:
        notes.append(f"{counted(groups, 'group')} for {counted(folds, 'fold')}: {groups} folds are used")
    return notes


def suggested_groups(cases: Sequence[Case]) -> tuple[str, Mapping[str, int]] | None:
    r"""What to give as ``--group`` if none is given and the ids look as if several cases were of one patient.

    An id is cut at ``_ - . /`` and blanks. Its shortest beginning that differs between cases is taken if it ends in
    something with a digit in every id (``patient001`` of ``patient001_frame12``) and if at least a quarter of the
    cases share theirs with another.

    Returns
    -------
    pattern : str
        A regular expression that finds these beginnings, and nothing else, in the ids.
    groups : mapping of str to int
        Beginning → cases.

    Examples
    --------
    >>> pattern, groups = suggested_groups([Case(f"p{k}_t{t}", f"p{k}_t{t}", ()) for k in (1, 2) for t in (5, 6)])
    >>> pattern, dict(groups)
    ('^p\\d+', {'p1': 2, 'p2': 2})
    """
    ids = [c.id for c in cases]
    if len(ids) < 2 or any(c.group != c.id for c in cases) or _given(cases) is not None:
        return None
    parts = [re.findall(r"[^_\-./\s]+", i) for i in ids]
    for depth in range(1, min(map(len, parts))):
        general = r"^[_\-./\s]*" + r"[^_\-./\s]+[_\-./\s]+" * (depth - 1) + r"[^_\-./\s]+"
        starts = [re.findall(general, i)[0] for i in ids]
        groups = Counter(starts)
        if len(groups) == 1:
            continue
        alike = sum(n for n in groups.values() if n > 1)
        if 4 * alike < len(ids) or not all(re.search(r"\d", p[depth - 1]) for p in parts):
            return None
        short = "^" + re.escape(re.sub(r"\d+$", "", common_start(starts))).replace(r"\-", "-") + r"\d+"
        found = [m[0] if (m := re.search(short, i)) else None for i in ids]
        return (short if found == starts else general), groups
    return None


def group_problems(cases: Sequence[Case], source: str) -> list[Problem]:
    """No group is named, but the ids look as if several cases were of one patient (fault D3)."""
    hint = suggested_groups(cases)
    if hint is None:
        return []
    pattern, groups = hint
    shared = [name for name, count in groups.items() if count > 1]
    some = ", ".join(shared[:3]) + ", …" * (len(shared) > 3)
    return [Problem("D3", "warning", "", source, f"no groups, but {len(cases)} ids with {len(groups)} beginnings; "
                    f"several cases each of {some}", "a group for each patient, animal or slide, so that none is on "
                    "both sides of a split", f"if these are alike: --group '{pattern}'")]


def _is(case: Case, names: frozenset[str]) -> bool:
    return case.split is not None and case.split.lower() in names


def _given(cases: Sequence[Case]) -> list[Fold] | None:
    """The folds a table gives: rows named train and val, or a number in ``fold`` for every case."""
    train = tuple(sorted(c.id for c in cases if _is(c, _TRAIN)))
    validation = tuple(sorted(c.id for c in cases if _is(c, _VALIDATION)))
    if train and validation:
        return [(train, validation)]
    numbers = {c.id: c.attributes.get("fold", "") for c in cases}
    if not all(n.isdigit() for n in numbers.values()) or len(set(numbers.values())) < 2:
        return None
    names = sorted(numbers)
    return [(tuple(i for i in names if numbers[i] != n), tuple(i for i in names if numbers[i] == n))
            for n in sorted(set(numbers.values()), key=int)]


def _sizes(cases: Sequence[Case]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for case in cases:
        sizes[case.group] = sizes.get(case.group, 0) + 1
    return sizes


def _shuffled(cases: Sequence[Case], seed: int) -> list[str]:
    """Group names in an order that depends on the seed and the names, not on the order of the cases."""
    names = sorted({c.group for c in cases})
    return [names[i] for i in np.random.default_rng([seed, 0]).permutation(len(names))]


def _bins(cases: Sequence[Case], folds: int, seed: int) -> list[set[str]]:
    """Groups dealt to folds, largest first, each to the emptiest fold (the first of equals)."""
    sizes = _sizes(cases)
    bins: list[set[str]] = [set() for _ in range(folds)]
    loads = [0] * folds
    for name in sorted(_shuffled(cases, seed), key=lambda n: -sizes[n]):
        k = loads.index(min(loads))
        bins[k].add(name)
        loads[k] += sizes[name]
    return bins


def _fold(cases: Sequence[Case], validation: set[str]) -> Fold:
    return (tuple(sorted(c.id for c in cases if c.group not in validation)),
            tuple(sorted(c.id for c in cases if c.group in validation)))
