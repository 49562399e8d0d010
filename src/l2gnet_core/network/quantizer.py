"""The codebook: a vector quantiser learnt by exponential moving average.

Source: van den Oord et al., "Neural Discrete Representation Learning" (NeurIPS 2017), appendix A.1
for the moving average; dead codes are restarted at encoder outputs as in Dhariwal et al.,
"Jukebox" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2gnet_core.network.precise import precise
from l2gnet_core.network.processes import gathered


@dataclass(frozen=True)
class Quantized:
    """tokens: (B,n,d), codes with straight-through gradient. codes: (B,n), indices of codes.
    commitment: scalar, mean squared distance per channel of tokens to their codes, with gradient to
    the tokens only. error: (B,n), the same for each token, without gradient."""

    tokens: Tensor
    codes: Tensor
    commitment: Tensor
    error: Tensor


class Codebook(nn.Module):
    """K code vectors of d channels; `forward` maps each token to its nearest code."""

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor
    updates: Tensor

    def __init__(self, codes: int, channels: int, decay: float = 0.99, quick: bool = False) -> None:
        """quick: average over fewer batches at first, because the encoder changes fast then. With
        an average over a hundred batches from the start, codes lag behind and few are used."""
        super().__init__()
        self.decay = decay
        self.quick = quick
        # A code is dead if its frequency is below this share of the mean.
        self.dead_share = 0.25
        self.register_buffer("vectors", torch.randn(codes, channels))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        if quick:
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def nearest(self, tokens: Tensor) -> Tensor:
        """Indices (B,n) of the codes nearest to tokens (B,n,d), by squared distance."""
        scores = tokens @ self.vectors.T - 0.5 * self.vectors.square().sum(1)
        return scores.argmax(-1)

    def forward(self, tokens: Tensor) -> Quantized:
        """Quantise tokens (B,n,d); in training mode also move the codebook towards them and towards
        those of all other processes."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = precise(tokens)
            everyone = gathered(tokens) if self.training else tokens
            if self.training:
                self._start(everyone.detach())
            codes = self.nearest(tokens.detach())
            nearest = F.embedding(codes, self.vectors)
            commitment = F.mse_loss(tokens, nearest)
            change = (nearest - tokens).detach()
            straight = tokens + change
            if self.training:
                self._update(everyone.detach(), gathered(codes))
        return Quantized(straight, codes, commitment, change.square().mean(-1))

    def _start(self, tokens: Tensor) -> None:
        """Draw the first codes from the first batch, so that none starts far from all data."""
        if not self.started:
            self.vectors.copy_(self._draw(tokens, len(self.vectors)))
            self.sums.copy_(self.vectors)
            self.started.fill_(True)

    def _draw(self, tokens: Tensor, count: int) -> Tensor:
        flat = tokens.flatten(0, -2)
        # On the CPU, whose generator a run saves and restores. Without replacement while there are
        # enough tokens: between two equal codes, rounding errors would choose.
        order = torch.randperm(len(flat))[torch.arange(count) % len(flat)]
        return flat[order.to(flat.device)]

    @torch.no_grad()
    def _update(self, tokens: Tensor, codes: Tensor) -> None:
        flat, index = tokens.flatten(0, -2), codes.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, index, flat.new_ones(len(flat)))
        sums = torch.zeros_like(self.sums).index_add_(0, index, flat)
        new = 1 - self.decay
        if self.quick:
            new = max(new, 9 / (10 + int(self.updates)))
            self.updates += 1
        self.counts.lerp_(counts, new)
        self.sums.lerp_(sums, new)
        dead = self.counts < self.dead_share * self.counts.mean()
        fresh = self._draw(tokens, len(self.vectors))
        revived = self.counts.mean()
        self.counts.copy_(torch.where(dead, revived, self.counts))
        self.sums.copy_(torch.where(dead[:, None], fresh * revived, self.sums))
        self.vectors.copy_(self.sums / self.counts.clamp(min=1e-6)[:, None])
