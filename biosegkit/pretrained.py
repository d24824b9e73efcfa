"""Weights a 2D encoder begins with: a file of the user's, or a download that the user has named, never anything else.

They are read once, when training starts; a finished model holds its own weights and asks for nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._atomic import sha256
from ._lazy import optional
from .checkpoint import load_tensors, refuse_foreign
from .errors import FileError, PlanError
from .loop import make_network
from .nets.smp import EncoderDecoder, filled_encoder
from .plan.schema import Plan
from .segmenter import method_of

__all__ = ["begin", "digest_of"]

_NAME = "model.safetensors"


def digest_of(encoder: str, weights: str) -> str:
    """SHA-256 of the weights a user has named; a download is made now, so that the plan can pin it.

    Parameters
    ----------
    encoder : str
        As ``--encoder``.
    weights : str
        A ``.safetensors`` file, or the name of a download (``imagenet``).

    Raises
    ------
    FileError
        For a file that is missing or of another format, or a download that fails.
    PlanError
        If there is no download of this name for this encoder.
    """
    return sha256(_located(encoder, weights))


def begin(plan: Plan) -> dict[str, Tensor] | None:
    """The state training starts from: random but for the encoder; None where the plan names no weights.

    Raises
    ------
    FileError
        If the file is missing, damaged or not the one whose SHA-256 the plan holds.
    PlanError
        If weights and encoder do not fit, or the plan knows its weights by their hash alone.
    """
    a = plan.configuration.architecture
    if not a.encoder_weights and not a.encoder_digest:
        return None
    if not a.encoder_weights:
        raise PlanError(f"encoder weights of SHA-256 {a.encoder_digest[:12]}… without the file that holds them",
                        expected="encoder_weights beside encoder_digest in the plan",
                        remedy="enter the file's path there, or remove encoder_digest to begin at random")
    path = _located(a.encoder, a.encoder_weights)
    tensors = load_tensors(path, digest=a.encoder_digest or None)
    network = make_network(plan, method_of(plan), torch.device("cpu"))
    if not isinstance(network, EncoderDecoder):
        raise PlanError(f"encoder weights for network {a.name!r}", expected="a network with an encoder to choose",
                        remedy="remove encoder_weights from the plan")
    inner: Any = network.net
    filled = filled_encoder(network.encoder_name, len(plan.preprocessing.channels), tensors, inner.encoder)
    return {**network.state_dict(), **{f"net.encoder.{k}": v for k, v in filled.items()}}


def _located(encoder: str, weights: str) -> Path:
    """The file: the user's own, or that of the download of this name in the library's cache."""
    if re.fullmatch(r"[\w+-]+", weights):
        return _downloaded(encoder, weights)
    path = Path(weights)
    refuse_foreign(path)
    if not path.is_file() or path.suffix != ".safetensors":
        raise FileError("no .safetensors file" if path.exists() else "nothing there", file=path,
                        expected="encoder weights: a .safetensors file, or the name of a download such as imagenet",
                        remedy="correct --encoder-weights")
    return path


def _downloaded(encoder: str, name: str) -> Path:
    """The download, by the hub's own client, without credentials; its content must be what its hash says."""
    repository, revision = _repository(encoder, name)
    hub = optional("huggingface_hub")
    failures = (OSError, ValueError, hub.errors.HTTPError, hub.errors.EntryNotFoundError)
    try:
        path = Path(hub.hf_hub_download(repository, _NAME, revision=revision, token=False))
    except failures as error:
        raise FileError(f"no download of {repository} ({type(error).__name__})", expected=f"{_NAME} from the hub",
                        remedy="connect to the internet, or fetch the file elsewhere and give its path to "
                        "--encoder-weights; without this option the encoder begins at random") from error
    digest = path.resolve().name  # the cache names a file by the hash its server told
    if re.fullmatch(r"[0-9a-f]{64}", digest) and sha256(path) != digest:
        raise FileError(f"a download of {repository} with another SHA-256", file=path, expected=f"{digest[:12]}…",
                        remedy="delete the file and try again")
    return path


def _repository(encoder: str, name: str) -> tuple[str, str | None]:
    """Repository and revision of a download, as the libraries list them."""
    if encoder.startswith("tu-"):
        model = encoder.removeprefix("tu-")
        config = optional("timm").get_pretrained_cfg(model)
        known = {"imagenet": (config.hf_hub_id, None)} if config is not None and config.hf_hub_id else {}
    else:
        rows = optional("segmentation_models_pytorch.encoders").encoders
        settings = rows[encoder]["pretrained_settings"] if encoder in rows else {}
        known = {key: (row["repo_id"], row.get("revision")) for key, row in settings.items() if "repo_id" in row}
    if name not in known:
        raise PlanError(f"weights {name!r} of encoder {encoder!r}",
                        expected=f"one of {', '.join(known)}, or a .safetensors file" if known
                        else "a .safetensors file: no download is known for this encoder",
                        remedy="correct --encoder-weights or --encoder")
    return known[name]
