"""Bundle: the one model file. Plan, weights, thresholds, scores, and a synthetic sample with which it tests itself.

A folder or a zip of ``bundle.json``, ``plan.json``, ``weights-<fold>.safetensors``, ``sample_in.npy`` and
``sample_out.npy``. ``bundle.json`` is written last and holds the size and SHA-256 of every other member. Only these
names are ever opened, as regular files, within size caps; nothing is extracted, fetched, unpickled or imported.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ._atomic import atomic_folder, atomic_path, sha256, write_json, write_npy
from .checkpoint import refuse_foreign, save_tensors, weights_hash
from .device import pick
from .errors import FileError, OptionError, PlanError
from .grid import Grid
from .image import Image
from .members import Members, read_array, read_json_member, read_tensors
from .methods.protocol import Method
from .nets import Output, build
from .plan.schema import Configuration, Plan
from .predictor import Prediction
from .reduced import Reduced
from .segmenter import Segmenter, method_of
from .tidy import Tidy, tidied_digest, tidy_of

__all__ = ["SCHEMA", "Bundle", "load", "network_of", "plan_of", "write_bundle", "zip_bundle"]

#: Version of the bundle's layout; a reader for every older one is kept.
SCHEMA = 1
#: Largest difference of the self-test, relative to the largest value of the sample (at least 1).
TOLERANCE = 1e-3
_LIBRARIES = ("torch", "numpy", "safetensors", "pydantic")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded model: a predictor with maps.

    Parameters
    ----------
    segmenter : Segmenter
        Plan, networks, device and thresholds.
    info : dict
        What ``bundle.json`` says: versions, scores, licence, provenance.
    path : Path
        Where it was loaded from.
    digest : str
        SHA-256 of ``bundle.json``, which covers all members: the model's identity.
    notes : tuple of str
    weights_digest : str
        Identity of what the networks answer: that of the model, whatever the post-processing.
    """

    segmenter: Segmenter
    info: Mapping[str, Any]
    path: Path
    digest: str
    notes: tuple[str, ...] = field(default=())
    weights_digest: str = ""

    @property
    def plan(self) -> Plan:
        """How the model was planned."""
        return self.segmenter.plan

    @property
    def thresholds(self) -> Mapping[str, float]:
        """As tuned after training."""
        return self.segmenter.thresholds

    @property
    def scores(self) -> Mapping[str, Any]:
        """What was measured on held-out cases."""
        scores: Mapping[str, Any] = self.info.get("scores", {})
        return scores

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.segmenter.device

    def predict(self, image: Image, *, tta: bool = False, thresholds: Mapping[str, float] | None = None,
                maps: bool = False) -> Prediction:
        """Segment one image; see :meth:`Segmenter.predict`."""
        return self.segmenter.predict(image, tta=tta, thresholds=thresholds, maps=maps)

    def at_depth(self, depth: int | str) -> Bundle:
        """The model at one depth of its networks, or at the ``"mean"`` of all; see :meth:`Segmenter.at_depth`.

        It is another model with a digest of its own, so that its results are not taken for those of this one.
        """
        digest = hashlib.sha256(f"{self.digest} depth {depth}".encode()).hexdigest()
        return replace(self, segmenter=self.segmenter.at_depth(depth), digest=digest, weights_digest=digest)

    @property
    def postprocessing(self) -> dict[str, Any]:
        """What is done to labels after the decoding; see :mod:`biosegkit.tidy`."""
        return asdict(self.segmenter.tidy or tidy_of(self.plan.labels))

    def tidied(self, **options: Any) -> Bundle:
        """The model with other post-processing, and so with a digest of its own; see :meth:`Segmenter.tidied`.

        Options not given stay as training chose them.
        """
        own, new = self.segmenter.tidy, self.segmenter.tidied(**options)
        digest = self.digest if new.tidy is None else tidied_digest(self.digest, new.tidy, own)
        return replace(self, segmenter=new, digest=digest)

    def maps(self, image: Image, *, tta: bool = False) -> dict[str, npt.NDArray[np.float32]]:
        """Dense maps (C, *space) on the image's grid."""
        return self.segmenter.maps(image, tta=tta)

    def decode(self, maps: Mapping[str, npt.NDArray[np.float32]], thresholds: Mapping[str, float],
               grid: Grid | None = None, window: tuple[slice, ...] | None = None) -> Prediction:
        """Labels from maps; see :meth:`Segmenter.decode`."""
        return self.segmenter.decode(maps, thresholds, grid, window)

    def states(self, image: Image, *, tta: bool = False) -> Reduced:
        """The image reduced to what thresholds act on; see :meth:`Segmenter.states`."""
        return self.segmenter.states(image, tta=tta)


def network_of(plan: Plan, method: Method | None = None) -> nn.Module:
    """The plan's network with fresh weights, in evaluation mode; for a method at hand, or the plan's."""
    heads = {head.name: Output(head.channels, head.hidden, head.coarse)
             for head in (method or method_of(plan)).heads(plan.configuration.ndim)}
    return build(plan.configuration, len(plan.preprocessing.channels), heads).eval()


def write_bundle(
    folder: str | Path,
    plan: Plan,
    weights: Mapping[str, Mapping[str, Tensor]],
    *,
    thresholds: Mapping[str, float] | None = None,
    scores: Mapping[str, Any] | None = None,
    licence: str = "",
    provenance: Mapping[str, Any] | None = None,
    postprocessing: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle folder, whole or not at all; an older one is replaced.

    Parameters
    ----------
    folder : path
    plan : Plan
    weights : dict of fold name to dict of Tensor
        State of the network per fold; the maps of all folds are averaged.
    thresholds : dict of str to float, optional
        Tuned values.
    scores, provenance : dict, optional
        Plain data; no source paths and no voxels belong in here (fault S8).
    licence : str
        Of the weights.
    postprocessing : dict, optional
        Fields of :class:`biosegkit.tidy.TidyObjects` or ``TidyClasses`` that differ from their defaults.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        plan.shared().write(temporary / "plan.json")
        for fold, tensors in weights.items():
            save_tensors(temporary / f"weights-{fold}.safetensors", tensors)
        networks = [_filled(network_of(plan), tensors, fold) for fold, tensors in weights.items()]
        sample = _sample(plan)
        write_npy(temporary / "sample_in.npy", sample)
        write_npy(temporary / "sample_out.npy", _sample_out(plan, networks, sample, torch.device("cpu")))
        members = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(temporary.iterdir())}
        write_json(temporary / "bundle.json", {
            "schema_version": SCHEMA,
            "versions": {name: metadata.version(name) for name in ("biosegkit", *_LIBRARIES)},
            "plan": plan.hash,
            "weights": {fold: weights_hash(tensors) for fold, tensors in weights.items()},
            "thresholds": dict(thresholds or {}),
            **({"postprocessing": dict(postprocessing)} if postprocessing else {}),
            "scores": dict(scores or {}),
            "licence": licence,
            "provenance": dict(provenance or {}),
            "members": members,
        })
    return folder


def zip_bundle(folder: str | Path, target: str | Path) -> Path:
    """Pack a bundle folder into one file."""
    source, target = Members(_bundle_folder(Path(folder))), Path(target)
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in source.names:
            archive.writestr(zipfile.ZipInfo(name), source.read(name))
    return target


def load(path: str | Path, device: str | torch.device = "auto", *, folds: Sequence[str] | None = None) -> Bundle:
    """Open a model, verify every member, and let it test itself.

    Parameters
    ----------
    path : path
        A RUN folder (its ``bundle``), a bundle folder or a zip of one.
    device : str
        See :func:`biosegkit.device.pick`.
    folds : sequence of str, optional
        Use only these; all by default.

    Raises
    ------
    FileError
        For a missing, damaged, foreign or oversized member, a link, or a name outside the closed list.
    PlanError
        If it was made by a newer schema, or answers its own sample with something else.
    """
    members = Members(_bundle_folder(Path(path)))
    info, digest = _manifest(members)
    plan = Plan.from_data(read_json_member(members, "plan.json", info), f"{path}: plan.json")
    names = sorted(n for n in info["members"] if n.startswith("weights-"))
    chosen = [n for n in names if folds is None or n[len("weights-") : -len(".safetensors")] in folds]
    if not chosen:
        raise FileError(f"weights {names}", file=path, expected=f"weights of folds {folds or 'of any name'}")
    where = pick(device)
    networks = []
    for name in chosen:
        network = _filled(network_of(plan), read_tensors(members, name, info), name)
        if plan.training.memory_format == "channels_last":
            layout = torch.channels_last if plan.configuration.ndim == 2 else torch.channels_last_3d
            network = network.to(memory_format=layout)
        networks.append(network.to(where))
    segmenter = Segmenter(plan, tuple(networks), where, dict(info["thresholds"]), tidy=_tidy(plan, info, path))
    if len(chosen) == len(names):
        _self_test(segmenter, members, info)
    return Bundle(segmenter, info, Path(path), digest, weights_digest=digest)


def plan_of(path: str | Path) -> Plan:
    """The plan of a model, which is verified; its weights are not read.

    Raises
    ------
    FileError, PlanError
        As :func:`load`.
    """
    members = Members(_bundle_folder(Path(path)))
    info, _ = _manifest(members)
    return Plan.from_data(read_json_member(members, "plan.json", info), f"{path}: plan.json")


def _tidy(plan: Plan, info: Mapping[str, Any], path: str | Path) -> Tidy:
    """The post-processing that training chose."""
    try:
        return tidy_of(plan.labels, info.get("postprocessing", {}))
    except OptionError as error:
        raise PlanError(f"post-processing that cannot be: {error.found}", file=path, expected=error.expected,
                        remedy="it is damaged or was made by a newer version: update biosegkit or copy it again"
                        ) from error


def _bundle_folder(path: Path) -> Path:
    """The bundle of a RUN, or the bundle itself."""
    refuse_foreign(path)
    if not path.exists():
        raise FileError("nothing there", file=path, expected="a RUN, a bundle folder or its zip",
                        remedy="see `biosegkit models` for what can be used here")
    if path.is_dir() and not (path / "bundle.json").exists():
        if (path / "bundle" / "bundle.json").exists():
            return path / "bundle"
        raise FileError("a folder without bundle.json", file=path, expected="a RUN that has finished, or a bundle",
                        remedy="finish the training with `biosegkit train … --resume`")
    return path


def _manifest(members: Members) -> tuple[dict[str, Any], str]:
    """``bundle.json``, checked, and its hash."""
    raw = members.read("bundle.json")
    try:
        info = json.loads(raw)
    except ValueError as error:
        raise FileError(f"no readable JSON ({error})", file=members.path / "bundle.json") from error
    version = info.get("schema_version") if isinstance(info, dict) else None
    if not isinstance(version, int) or version < 1:
        raise FileError(f"schema {version}", file=members.path, expected=f"schema 1 to {SCHEMA}")
    if version > SCHEMA:
        raise PlanError(f"a bundle made by schema {version}", file=members.path, expected=f"this reads ≤ {SCHEMA}",
                        remedy="update biosegkit")
    listed = set(info.get("members", {})) | {"bundle.json"}
    if listed != set(members.names):
        raise FileError(f"members {sorted(members.names)}", file=members.path, expected=f"{sorted(listed)}",
                        remedy="copy it again")
    return info, hashlib.sha256(raw).hexdigest()


def _filled(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    """The network with these weights; a name or shape that differs is refused."""
    wanted = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    if wanted != given:
        unlike = sorted(k for k in {*wanted, *given} if wanted.get(k) != given.get(k))
        raise PlanError(f"weights {name} that do not fit the plan's network, first {unlike[0]}: {given.get(unlike[0])}",
                        expected=f"{wanted.get(unlike[0])}", remedy="use the plan the weights were trained with")
    network.load_state_dict({k: v.detach() for k, v in tensors.items()})
    return network


def _sample_shape(c: Configuration) -> tuple[int, ...]:
    """A few voxels at the lowest resolution, and not more than a patch."""
    lowest = 4 if c.ndim == 2 else 2
    strides = [int(np.prod([s[a] for s in c.architecture.strides])) for a in range(c.ndim)]
    return tuple(min(p, lowest * s) for p, s in zip(c.patch, strides, strict=True))


def _sample(plan: Plan) -> npt.NDArray[np.float32]:
    """A synthetic network input, from the plan's seed: smooth blobs and noise, no patient's voxels (fault S8)."""
    rng = np.random.default_rng([plan.seed, 7])
    shape = _sample_shape(plan.configuration)
    noise = rng.standard_normal((len(plan.preprocessing.channels), *shape)).astype(np.float32)
    grids = np.meshgrid(*(np.linspace(0, 3 * np.pi, n, dtype=np.float32) for n in shape), indexing="ij")
    waves = np.prod([np.cos(g + k) for k, g in enumerate(grids)], axis=0)
    return np.asarray(waves[None] + 0.3 * noise, np.float32)


@torch.inference_mode()
def _sample_out(plan: Plan, networks: Sequence[nn.Module], sample: npt.NDArray[np.float32],
                device: torch.device) -> npt.NDArray[np.float32]:
    """Averaged maps of all heads in one row, in full precision on any device."""
    method = method_of(plan)
    total: npt.NDArray[np.float32] | None = None
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        for network in networks:
            maps = method.activate(network(torch.from_numpy(sample[None].copy()).to(device)))
            row = np.concatenate([maps[name].float().cpu().numpy().reshape(-1) for name in sorted(maps)])
            total = row if total is None else total + row
    if total is None:
        raise PlanError("no weights", expected="at least one fold")
    return np.asarray(total / len(networks), np.float32)


def _self_test(segmenter: Segmenter, members: Members, info: Mapping[str, Any]) -> None:
    """The sample must come out as it did where the bundle was written (fault X4)."""
    sample, expected = read_array(members, "sample_in.npy", info), read_array(members, "sample_out.npy", info)
    if sample.ndim != segmenter.plan.configuration.ndim + 1:
        raise PlanError(f"a sample of shape {sample.shape}", file=members.path, expected="one of the plan's dimensions")
    found = _sample_out(segmenter.plan, segmenter.networks, sample, segmenter.device)
    off = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0)))
    if not off <= limit:
        raise PlanError(f"a self-test that is {off:.3g} off", file=members.path, expected=f"at most {limit:.3g}",
                        remedy="install the versions bundle.json names, or report this")
