"""What `accuracy.py` trains: six architectures, L2GNet with one change each, and MONAI's U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2gnet_core.augmentation.sampling import Sampler
from l2gnet_core.network.bottlenecks import (
    BottleneckOutput,
    Quantising,
    as_map,
    begin_as_codes,
    zero_started,
)
from l2gnet_core.network.config import ARCHITECTURES, NetworkConfig, preset
from l2gnet_core.network.model import NetworkOutput, build
from l2gnet_core.network.transport import cosine_cost, transport_tokens

Build = Callable[[int], nn.Module]

#: Slices of one volume in a batch of `VolumeSampler`.
SLICES_OF_A_VOLUME = 4


def architecture(name: str, **changes: object) -> Build:
    """A network of an architecture at preset `small`, with settings changed."""

    def make(classes: int) -> nn.Module:
        config = preset("small", classes, architecture=name, supervised=2)
        return build(replace(config, **changes))

    return make


class CodesAndReference(Quantising):
    """L2GNet's bottleneck with its parts as settings: which of z, c and g are fused, what relates
    the codes, whether the encoder learns through the codes (`straight`), the weight of the
    commitment, and whether z passes by the codes (`beside`)."""

    def __init__(
        self,
        config: NetworkConfig,
        parts: str,
        relation: str = "transport",
        straight: bool = True,
        commitment: float = 0.0,
        beside: bool = True,
    ) -> None:
        super().__init__(config, commitment)
        channels = config.widths[-1]
        self.reference = nn.Parameter(torch.randn(config.references, channels) / channels**0.5)
        self.fusion: nn.Conv2d = zero_started(len(parts) * channels, channels)
        if not beside:
            self.fusion = nn.Conv2d(len(parts) * channels, channels, 1)
        self.config, self.parts, self.relation = config, parts, relation
        self.straight, self.beside = straight, beside

    def forward(self, features: Tensor) -> BottleneckOutput:
        """features: (B,d,h,w)."""
        batch, _, height, width = features.shape
        first = self.codebook.training and not self.codebook.started
        quantized = self.quantise(features)
        if first:
            begin_as_codes(self.reference, self.codebook.vectors)
        tokens = quantized.tokens if self.straight else quantized.tokens.detach()
        parts = {"z": features, "c": as_map(tokens, features)}
        if "g" in self.parts:
            parts["g"] = as_map(self._related(tokens, quantized.codes), features)
        fused = self.fusion(torch.cat([parts[part] for part in self.parts], 1))
        if self.beside:
            fused = features + self.pace * fused
        codes = quantized.codes.reshape(batch, height, width)
        return BottleneckOutput(fused, quantized.commitment, codes)

    def _related(self, tokens: Tensor, codes: Tensor) -> Tensor:
        config = self.config
        if self.relation == "transport":
            return transport_tokens(
                tokens, codes, self.reference, config.epsilon, config.sinkhorn_iterations
            )[0]
        if self.relation == "volume":
            # One plan over the tokens of a volume: in training of its slices in the batch,
            # afterwards of all its slices (a batch is one volume).
            volumes = max(1, len(tokens) // SLICES_OF_A_VOLUME) if self.training else 1
            together = transport_tokens(
                tokens.reshape(volumes, -1, tokens.shape[-1]),
                codes.reshape(volumes, -1),
                self.reference,
                config.epsilon,
                config.sinkhorn_iterations,
            )[0]
            return together.reshape(tokens.shape)
        # Rows alone are normalised: attention to the reference, and back along its columns.
        with torch.autocast(tokens.device.type, enabled=False):
            weights = (-cosine_cost(tokens.float(), self.reference) / config.epsilon).softmax(-1)
            gathered = weights.transpose(1, 2) @ tokens.float()
            gathered = gathered / weights.sum(1).clamp(min=1e-6)[..., None]
            return weights @ gathered


def pieces(parts: str, **how: Any) -> Build:
    """L2GNet with `CodesAndReference` as its bottleneck."""

    def make(classes: int) -> nn.Module:
        network = build(preset("small", classes, supervised=2))
        network.bottleneck = CodesAndReference(network.config, parts, **how)
        return network

    return make


class MonaiUNet(nn.Module):
    """MONAI's UNet with the same widths, as independent code on the same data and budget."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from monai.networks.nets import UNet

        self.config = preset("small", classes, architecture="unet")
        widths = self.config.widths
        self.unet = UNet(
            2, 1, classes, widths, (2,) * (len(widths) - 1), num_res_units=2, norm="INSTANCE"
        )

    def forward(self, image: Tensor) -> NetworkOutput:
        """image: (B,1,H,W)."""
        return NetworkOutput(self.unet(image), (), image.new_zeros(()), None, None)


class VolumeSampler(Sampler):
    """Draws batches of a few volumes, `SLICES_OF_A_VOLUME` slices of each."""

    def batch(
        self, step: int, samples: Iterable[int], size: int, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """As `Sampler.batch`."""
        parts = []
        for volume, of_it in groupby(samples, lambda sample: sample // SLICES_OF_A_VOLUME):
            rng = np.random.default_rng((self.seed, step, volume, 1))
            case = self.cases[int(rng.integers(len(self.cases)))]
            alone = Sampler([case], self.how, self.channels, self.seed)
            parts.append(alone.batch(step, of_it, size, device))
        images, targets = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(targets)


#: A body of half the depth has its codes at stride 8 instead of 16.
STRIDE_8 = (16, 32, 64, 256)

VARIANTS: dict[str, Build] = {
    **{name: architecture(name) for name in ARCHITECTURES},
    "monai-unet": MonaiUNet,
    "no transport": pieces("c"),
    "softmax": pieces("cg", relation="softmax"),
    "plain tokens": architecture("l2gnet", tokens="plain", sinkhorn_iterations=8),
    "codes do not teach": pieces("cg", straight=False),
    "a tenth of the commitment": pieces("cg", commitment=0.1),
    "commitment": pieces("cg", commitment=1.0),
    "fuse z, c, g": pieces("zcg"),
    "fuse c, g without z": pieces("cg", beside=False),
    "stride 8": architecture("l2gnet", widths=STRIDE_8),
    "unet, stride 8": architecture("unet", widths=STRIDE_8),
    "R = 16": architecture("l2gnet", references=16),
    "R = 256": architecture("l2gnet", references=256),
    "K = 64": architecture("l2gnet", codes=64),
    "K = 1024": architecture("l2gnet", codes=1024),
    "one plan per volume": pieces("cg", relation="volume"),
    # The same batches with a plan per slice: the control of the variant above.
    "batches by volume": architecture("l2gnet"),
}
BY_VOLUME = ("one plan per volume", "batches by volume")
ABLATIONS = list(VARIANTS)[len(ARCHITECTURES) + 1 :]
