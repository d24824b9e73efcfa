"""What a StarDist model says of itself: ``config.json`` and ``thresholds.json``, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biosegkit.errors import FileError

__all__ = ["StarConfig", "Thresholds", "read_config", "read_thresholds"]

Power = Annotated[int, Field(ge=1, le=64)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Activation = Literal["relu", "elu", "selu", "sigmoid", "tanh", "linear"]
#: Settings of training and of Keras that say nothing about the network.
_SILENT = ("train_", "net_input_shape", "net_mask_shape", "use_gpu", "n_dim", "n_channel_out", "resnet_kernel_init",
           "unet_kernel_init", "unet_dropout")


class StarConfig(BaseModel):
    """The network of a StarDist model, by the names of its ``config.json``.

    Sizes are bounded, so that a damaged or hostile file cannot ask for all memory (law 6).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    axes: str
    n_rays: int = Field(ge=3, le=1024)
    grid: tuple[Power, ...]
    n_channel_in: int = Field(default=1, ge=1, le=64)
    n_classes: int | None = Field(default=None, ge=1, le=1024)
    backbone: Literal["unet", "resnet"] = "unet"
    anisotropy: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    rays_json: dict[str, Any] | None = None
    unet_n_depth: int = Field(default=3, ge=0, le=8)
    unet_kernel_size: tuple[Kernel, ...] = ()
    unet_n_filter_base: int = Field(default=32, ge=1, le=1024)
    unet_n_conv_per_depth: int = Field(default=2, ge=1, le=8)
    unet_pool: tuple[Power, ...] = ()
    unet_activation: Activation = "relu"
    unet_last_activation: Activation = "relu"
    unet_batch_norm: bool = False
    unet_expansion: float = Field(default=2, ge=1, le=4)
    unet_prefix: str = ""
    net_conv_after_unet: int = Field(default=128, ge=0, le=4096)
    resnet_n_blocks: int = Field(default=4, ge=1, le=16)
    resnet_kernel_size: tuple[Kernel, ...] = ()
    resnet_n_filter_base: int = Field(default=32, ge=1, le=1024)
    resnet_n_conv_per_block: int = Field(default=3, ge=2, le=8)
    resnet_activation: Activation = "relu"
    resnet_batch_norm: bool = False
    net_conv_after_resnet: int = Field(default=128, ge=0, le=4096)

    @property
    def ndim(self) -> int:
        """Number of axes in space."""
        return len(self.grid)

    @property
    def divisor(self) -> tuple[int, ...]:
        """Sizes that the network takes are multiples of these, per axis."""
        if self.backbone == "resnet":
            return self.grid
        return tuple(p**self.unet_n_depth * g for p, g in zip(self.unet_pool, self.grid, strict=True))


class Thresholds(BaseModel):
    """Least object probability, and largest overlap of two objects, as tuned after training."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prob: float = Field(default=0.5, ge=0, le=1)
    nms: float = Field(default=0.4, ge=0, le=1)


def read_config(data: Mapping[str, Any], file: str) -> StarConfig:
    """The configuration of ``config.json``.

    Raises
    ------
    FileError
        For settings that are missing, unknown, out of bounds or at odds with each other.

    Examples
    --------
    >>> read_config({"axes": "YXC", "n_rays": 32, "grid": [2, 2], "unet_pool": [2, 2]}, "config.json").divisor
    (16, 16)
    """
    known = {k: v for k, v in data.items() if not k.startswith(_SILENT)}
    try:
        config = StarConfig.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise FileError(f"setting {place} = {first['input']!r}", file=file, expected=first["msg"],
                        remedy="this StarDist model is damaged, or newer than this version knows") from error
    n = config.ndim
    filled = {"unet_kernel_size": (3,) * n, "unet_pool": (2,) * n, "resnet_kernel_size": (3,) * n}
    config = config.model_copy(update={k: v for k, v in filled.items() if not getattr(config, k)})
    lengths = {len(config.unet_kernel_size), len(config.unet_pool), len(config.resnet_kernel_size)}
    space = config.axes.upper().replace("C", "")
    grid_ok = all(g & (g - 1) == 0 for g in config.grid)
    if space not in ("YX", "ZYX") or len(space) != n or lengths != {n} or not grid_ok:
        raise FileError(f"axes {config.axes}, grid {config.grid}, pool {config.unet_pool}", file=file,
                        expected="axes YX or ZYX, with a grid of powers of two, a pool and a kernel for each",
                        remedy="this StarDist model is damaged")
    if n == 3 and config.rays_json is None:
        raise FileError("no rays_json", file=file, expected="the directions of a 3D model", remedy="copy it again")
    if n == 2 and config.backbone == "resnet":
        raise FileError("backbone resnet in 2D", file=file, expected="unet, the only 2D backbone of StarDist")
    return config


def read_thresholds(data: Mapping[str, Any], file: str) -> Thresholds:
    """The thresholds of ``thresholds.json``.

    Raises
    ------
    FileError
        For values outside 0 to 1.
    """
    try:
        return Thresholds.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise FileError(f"{first['loc'][0]} = {first['input']!r}", file=file, expected=first["msg"],
                        remedy="correct the file, or remove it for 0.5 and 0.4") from error
