"""Frozen settings of the network, stored inside every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Names of the architectures, which differ in the bottleneck (`l2gnet_core.network.bottlenecks`).
ARCHITECTURES = ("unet", "attnunet", "vqunet", "transunet", "synergynet", "l2gnet")
#: Those whose bottleneck has a codebook, so that a scan can be inspected.
WITH_CODES = ("vqunet", "synergynet", "l2gnet")


@dataclass(frozen=True)
class NetworkConfig:
    """What `l2gnet_core.network.model.build` needs to make a network.

    classes: number of classes with background. architecture: one of `ARCHITECTURES`. in_channels:
    neighbouring slices that the network sees. widths: channels of each resolution, finest first, so
    the bottleneck has stride 2 ** (len(widths) - 1). codes: size of the codebook, if there is one.
    references, epsilon, sinkhorn_iterations: of the transport of `l2gnet`. supervised: number of
    coarser levels of the decoder that learn from the labels, too (deep supervision). normalisation:
    "instance" (every channel alone) or "group" (eight groups of channels). tokens: quantised are
    "normalised" features (each channel of each image has mean 0 and variance 1) or "plain" ones.
    """

    classes: int
    architecture: str = "l2gnet"
    in_channels: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    codes: int = 256
    references: int = 64
    epsilon: float = 0.1
    sinkhorn_iterations: int = 16
    supervised: int = 0
    normalisation: str = "instance"
    tokens: str = "normalised"

    @property
    def stride(self) -> int:
        """Pixels of the image per token of the bottleneck, along each in-plane axis."""
        return int(2 ** (len(self.widths) - 1))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Inverse of `to_json`. Raises ValueError for values that this version does not know, and
        TypeError or KeyError for fields that it does not have."""
        config = cls(**{**values, "widths": tuple(values["widths"])})
        for name, choices in _CHOICES.items():
            if getattr(config, name) not in choices:
                raise ValueError(f"{name} is {getattr(config, name)!r}")
        counts = [getattr(config, name) for name in _COUNTS]
        for count in (*counts, *config.widths, config.supervised + 1):
            if type(count) is not int or count < 1:
                raise ValueError(f"{count!r} is no count")
        if not 0 < config.epsilon < float("inf"):
            raise ValueError(f"epsilon is {config.epsilon}")
        return config


# Fields with a choice of values, and fields that are counts.
_CHOICES = {
    "architecture": ARCHITECTURES,
    "normalisation": ("instance", "group"),
    "tokens": ("normalised", "plain"),
}
_COUNTS = ("classes", "in_channels", "codes", "references", "sinkhorn_iterations")


#: Sizes by name; `small` (2.1 million parameters) is the one that ships.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 8, 16, 16, 32), "codes": 32, "references": 8},
    "small": {},
    "base": {"widths": (32, 64, 128, 256, 384), "codes": 512, "references": 128},
}


def preset(
    name: str,
    classes: int,
    in_channels: int = 1,
    architecture: str = "l2gnet",
    supervised: int = 0,
) -> NetworkConfig:
    """The `NetworkConfig` called `name` for a number of classes (background included)."""
    return NetworkConfig(
        classes=classes,
        architecture=architecture,
        in_channels=in_channels,
        supervised=supervised,
        **PRESETS[name],
    )


def differences(given: NetworkConfig, wanted: NetworkConfig) -> str:
    """The differences of two networks as options of `l2gnet train`: "--arch unet, not l2gnet"."""
    words = [
        f"{what} {ours}, not {theirs}"
        for (what, ours), (_, theirs) in zip(_told(given), _told(wanted), strict=True)
        if ours != theirs
    ]
    # Changes between versions have no option.
    return ", and ".join(words) or "settings of another version"


def preset_of(config: NetworkConfig) -> str | None:
    """The preset that a network has the size of; None if there is none."""

    def fits(values: Mapping[str, Any]) -> bool:
        made = NetworkConfig(config.classes, **values)
        names = ("widths", "codes", "references")
        return all(getattr(made, name) == getattr(config, name) for name in names)

    return next((name for name, values in PRESETS.items() if fits(values)), None)


def _told(config: NetworkConfig) -> list[tuple[str, Any]]:
    """The values of a network that options of `l2gnet train` decide, by option."""
    return [
        ("--arch", config.architecture),
        ("--preset", preset_of(config) or "of its own"),
        ("--slices", config.in_channels),
        ("structures:", config.classes - 1),
    ]
