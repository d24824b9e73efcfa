"""A class for every object, beside any instance method: a softmax head whose mean over the object decides.

The inner method finds the objects and knows nothing of classes; the head is trained on voxels of objects with a class
only, so that a class never moves a border (the idea of HoVer-Net's type branch, Graham et al. 2019, with the mean
probability in place of the vote of the most probable classes). Every object weighs the same, however large: objects are
what is classified, and voxels would be taught the class of the largest. Sums are of whole numbers (probabilities in
1/65535), so that cutting an image into blocks changes nothing.

Limits: `resolve` paints every block once more to sum its probabilities, and a state holds two bytes per class
and voxel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from biosegkit.errors import OptionError
from biosegkit.kernels.basins import TOP, quantise
from biosegkit.methods.protocol import (
    ArrayDict,
    Block,
    Decisions,
    Head,
    Method,
    ObjectTable,
    Requirements,
    State,
    TensorDict,
    Tunable,
    flipped,
)
from biosegkit.methods.tables import rows_in

__all__ = ["WithClasses", "decided", "encode_classes", "without_classes"]

#: Name of the head, of its map and of its term in the loss.
_HEAD = "class"
#: Columns with the mean probability of each class, until :func:`decided` has chosen.
_MEAN = "class_mean_"


@dataclass(frozen=True)
class WithClasses:
    """An instance method with a class head.

    Parameters
    ----------
    inner : Method
        Finds the objects.
    n_classes : int
        Classes of objects, at least 2; they are numbered from 1.
    class_weight : float
        Factor of the cross-entropy in the loss.

    Examples
    --------
    >>> from biosegkit.methods import Distance
    >>> [(head.name, head.channels) for head in WithClasses(Distance(), 3).heads(2)]
    [('foreground', 1), ('distance', 1), ('class', 3)]
    """

    inner: Method
    n_classes: int
    class_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart."""
        if self.n_classes < 2:
            raise OptionError(f"n_classes={self.n_classes}", expected="at least 2 classes of objects")
        if not self.class_weight > 0.0:
            raise OptionError(f"class_weight={self.class_weight}", expected="a positive factor")

    @property
    def tunables(self) -> dict[str, Tunable]:
        """Those of the inner method."""
        return self.inner.tunables

    @property
    def halo(self) -> int:
        """That of the inner method."""
        return self.inner.halo

    @property
    def exact(self) -> bool:
        """As the inner method; classes are sums of whole numbers over an object."""
        return self.inner.exact

    def heads(self, ndim: int) -> tuple[Head, ...]:
        """Those of the inner method and a softmax over the classes."""
        return (*self.inner.heads(ndim), Head(_HEAD, self.n_classes, "softmax"))

    def requirements(self, diameters_px: Sequence[float]) -> Requirements:
        """Those of the inner method."""
        return self.inner.requirements(diameters_px)

    def encode(
        self, labels: npt.NDArray[Any], spacing: Sequence[float], valid: npt.NDArray[np.bool_] | None = None,
        classes: npt.NDArray[Any] | None = None,
    ) -> tuple[ArrayDict, ArrayDict]:
        """Targets and weights of the inner method, and the class (int64, from 0) of every voxel of an object.

        ``classes`` has the class of each id, ``(ids + 1,)``, 0 where it is not known; only valid voxels of objects with
        a class have a weight: one over how many there are in their object, so that every object has the same say.
        Without ``classes`` none is known.
        """
        targets, weights = self.inner.encode(labels, spacing, valid)
        weight, target = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.int64)
        if classes is not None:
            of_voxel = classes.astype(np.int64)[labels]
            known = of_voxel > 0 if valid is None else (of_voxel > 0) & valid
            target[known] = of_voxel[known] - 1
            owner = labels[known].astype(np.int64)
            weight[known] = 1.0 / np.bincount(owner)[owner]
        return {**targets, _HEAD: target}, {**weights, _HEAD: weight}

    def loss(self, outputs: TensorDict, targets: TensorDict, weights: TensorDict) -> TensorDict:
        """The terms of the inner method, and the mean cross-entropy over objects with a class, that of their voxels."""
        import torch

        from biosegkit.losses.comparison import mean_over

        terms = self.inner.loss(outputs, targets, weights)
        entropy = torch.nn.functional.cross_entropy(outputs[_HEAD].float(), targets[_HEAD], reduction="none")
        return {**terms, _HEAD: self.class_weight * mean_over(entropy, weights[_HEAD])}

    def activate(self, outputs: TensorDict) -> TensorDict:
        """Maps of the inner method and probabilities of the classes."""
        inner = self.inner.activate({name: value for name, value in outputs.items() if name != _HEAD})
        return {**inner, _HEAD: outputs[_HEAD].float().softmax(1)}

    def mirror(self, maps: ArrayDict, axes: Sequence[int]) -> ArrayDict:
        """Flip; a class has no direction."""
        return {**self.inner.mirror(_without(maps), axes), **flipped({_HEAD: maps[_HEAD]}, axes)}

    def ideal(self, targets: ArrayDict) -> ArrayDict:
        """Maps of the inner method and one-hot classes."""
        each = np.arange(self.n_classes).reshape(-1, *(1,) * targets[_HEAD].ndim)
        return {**self.inner.ideal(_without(targets)), _HEAD: (targets[_HEAD] == each).astype(np.float32)}

    def local(self, maps: ArrayDict, block: Block) -> State:
        """The inner method's state and the probabilities of the core in 1/65535."""
        state = self.inner.local(_without(maps), block)
        return replace(state, arrays={**state.arrays, _HEAD: quantise(maps[_HEAD][(slice(None), *block.core)])})

    def resolve(self, states: Sequence[State], thresholds: Mapping[str, float] | None = None) -> Decisions:
        """The inner method's decisions, with ``class`` and ``class_probability`` of every object."""
        found = self.inner.resolve(states, thresholds)
        ids = found.objects["id"].astype(np.int64)
        size = int(ids.max(initial=0)) + 1
        sums = np.zeros((self.n_classes, size), np.int64)
        voxels = np.zeros(size, np.int64)
        for state in states:
            labels = self.inner.paint(state, found)[0].reshape(-1)
            inside = np.flatnonzero(labels)
            owner = labels[inside].astype(np.int64)
            voxels += np.bincount(owner, minlength=size)
            for total, p in zip(sums, state.arrays[_HEAD], strict=True):
                # whole numbers below 2**53 are exact in the floats of bincount
                total += np.bincount(owner, p.reshape(-1)[inside], minlength=size).astype(np.int64)
        mean = sums[:, ids] / (np.maximum(voxels[ids], 1) * float(TOP))
        columns = {f"{_MEAN}{k}": row for k, row in enumerate(mean, 1)}
        return replace(found, objects={**found.objects, **columns, **_chosen(mean)})

    def paint(self, state: State, decisions: Decisions) -> tuple[npt.NDArray[Any], ObjectTable]:
        """The inner method's labels of the core, and the rows of the objects that begin in it."""
        return self.inner.paint(state, decisions)[0], rows_in(decisions.objects, state.block)


def encode_classes(method: Method, labels: npt.NDArray[Any], spacing: Sequence[float],
                   valid: npt.NDArray[np.bool_], classes: npt.NDArray[Any] | None) -> tuple[ArrayDict, ArrayDict]:
    """Targets and weights of a patch; the class of each id goes to methods that have a head for it."""
    if isinstance(method, WithClasses):
        return method.encode(labels, spacing, valid, classes)
    return method.encode(labels, spacing, valid)


def without_classes(method: Method) -> Method:
    """The method that finds the objects: thresholds do not depend on classes, and each trial is faster without them.

    Examples
    --------
    >>> from biosegkit.methods import Distance
    >>> without_classes(WithClasses(Distance(), 2)) == without_classes(Distance()) == Distance()
    True
    """
    return method.inner if isinstance(method, WithClasses) else method


def decided(table: Mapping[str, npt.NDArray[Any]], values: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """The table with the user's value in ``class``, decided by the mean probabilities, which are left out.

    Deciding here and not before lets planes be joined first: means weighted by area are the means of the whole object.

    Parameters
    ----------
    table : dict of ndarray
        Of a :class:`WithClasses`; any other is returned as it is.
    values : sequence of int
        The user's value of each class.

    Examples
    --------
    >>> rows = {"id": np.array([1]), "class_mean_1": np.array([0.25]), "class_mean_2": np.array([0.75])}
    >>> {name: column.tolist() for name, column in decided(rows, (10, 20)).items()}
    {'id': [1], 'class': [20], 'class_probability': [0.75]}
    """
    names = [f"{_MEAN}{k}" for k in range(1, len(values) + 1)]
    if not names or names[0] not in table:
        return dict(table)
    chosen = _chosen(np.stack([table[name] for name in names]))
    chosen["class"] = np.asarray(values, np.int64)[chosen["class"] - 1]
    return {**{name: column for name, column in table.items() if not name.startswith(_MEAN)}, **chosen}


def _chosen(mean: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[Any]]:
    """The class of the highest mean, of equals the first, and that mean; ``mean`` is (classes, objects)."""
    return {"class": mean.argmax(0) + 1, "class_probability": mean.max(0).astype(np.float32)}


def _without(arrays: ArrayDict) -> ArrayDict:
    """What is the inner method's."""
    return {name: array for name, array in arrays.items() if name != _HEAD}
