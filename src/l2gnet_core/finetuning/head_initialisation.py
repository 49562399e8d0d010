"""A head start for new structures: labels interpolated between painted slices, and fitted weights
of the last layer.

`l2gnet_core.network.model.widened` starts with new classes that are answered nowhere; from there, a
few dozen small steps of learning do not find them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from l2gnet_core.finetuning.correction_views import UNKNOWN, CorrectedScan
from l2gnet_core.interpolation.shapes import interpolate_slices
from l2gnet_core.network.losses import at_level
from l2gnet_core.network.model import SegmentationNetwork
from l2gnet_core.preprocessing.images import network_input

#: Weight of an interpolated pixel (a painted one has 1), and distance in pixels from an
#: interpolated border within which pixels have no weight.
_WEIGHT, _UNSURE = 0.5, 2
#: A last layer is fitted to at most so many slices and pixels of either kind. All pixels of new
#: structures together weigh `_SHARE` of what all others weigh.
_MOST_SLICES, _MOST_PIXELS, _SHARE = 12, 60_000, 0.3


def filled_in(scan: CorrectedScan, new: Tensor) -> CorrectedScan | None:
    """The slices between the corrected ones, with new structures interpolated by shape. None if
    there are no slices between, no new structures, or unmarked voxels in the corrected slices.

    new: (classes,), which classes are new. All other classes count as absent in these slices.
    """
    places = list(scan.places)
    between = [place for place in scan.untouched if min(places) < place < max(places)]
    painted = [c for c in torch.unique(scan.classes).tolist() if c != UNKNOWN and new[c]]
    if not between or not painted or (scan.classes == UNKNOWN).any():
        return None
    volume = np.zeros(scan.image.shape, np.uint8)
    kept = torch.isin(scan.classes, torch.tensor(painted))
    volume[places] = torch.where(kept, scan.classes, 0).numpy()
    classes = interpolate_slices(volume, places)[between]
    reach = (1, 2 * _UNSURE + 1, 2 * _UNSURE + 1)
    inside = ndimage.minimum_filter(classes, reach) == ndimage.maximum_filter(classes, reach)
    absent = torch.ones_like(new)
    absent[[0, *painted]] = False
    return replace(
        scan,
        places=tuple(between),
        classes=torch.from_numpy(classes),
        weights=torch.from_numpy(np.where(inside, np.float32(_WEIGHT), np.float32(0))),
        absent=absent,
        present=torch.zeros(len(between), len(new), dtype=torch.bool),
        supervised=torch.zeros(len(between), len(new), dtype=torch.bool),
        checked=torch.zeros(len(between), len(new), dtype=torch.bool),
    )


def fit_heads(
    network: SegmentationNetwork, scans: Sequence[CorrectedScan], new: Tensor, device: str
) -> None:
    """Fit the new classes' rows of the last layers, in place, to corrected slices: by logistic
    regression on the features, with the other classes' logits as they are.

    network: in training mode, so that it answers at coarser levels, too. new: (classes,), which
    classes are new.
    """
    decoder = network.decoder
    heads = [decoder.head, *decoder.coarser_heads]
    seen: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in heads]
    pairs = [(scan, k) for scan in scans for k in range(len(scan.places))]
    few = np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_SLICES)).round().astype(int)
    for scan, k in (pairs[place] for place in few):
        image = network_input(scan.image, [scan.places[k]], network.config, scan.step)
        image = image.float().to(device)
        # The padding is unknown.
        known = torch.where(scan.weights[k] > 0, scan.classes[k], torch.tensor(UNKNOWN))
        height, width = known.shape
        bottom, right = image.shape[-2] - height, image.shape[-1] - width
        truth = F.pad(known, (0, right, 0, bottom), value=UNKNOWN)
        inputs = zip(_inputs(network, heads, image), seen, strict=True)
        for level, (found, so_far) in enumerate(inputs):
            same = at_level(truth, level).flatten()
            use = (same != UNKNOWN).to(device)
            features = found[0].flatten(1).T
            # A class that the scan does not hold takes no part in its pixels.
            silent = scan.absent.to(device)[new].expand(int(use.sum()), -1)
            so_far.append((features[use], same.long().to(device)[use], silent))
    for head, parts in zip(heads, seen, strict=True):
        features, classes, silent = (torch.cat(some) for some in zip(*parts, strict=True))
        _fit(head, features, classes, silent, new.to(device))


def _inputs(
    network: SegmentationNetwork, heads: Sequence[nn.Module], image: Tensor
) -> list[Tensor]:
    """The inputs of the last layers for an image (1,C,H,W)."""
    given: dict[nn.Module, Tensor] = {}

    def note(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[head] = inputs[0].detach().float()

    hooks = [head.register_forward_pre_hook(note) for head in heads]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [given[head] for head in heads]


def _fit(head: nn.Module, features: Tensor, classes: Tensor, silent: Tensor, new: Tensor) -> None:
    """Fit the new rows of a head to pixels.

    features: (n,C). classes: (n,). silent: (n,new), which new classes take no part in a pixel.
    """
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    of_new = new[classes]
    if not of_new.any():
        return
    picked = torch.cat([_some(of_new), _some(~of_new)])
    features, classes, of_new = features[picked], classes[picked], of_new[picked]
    silent = silent[picked]
    weights = torch.where(of_new, _SHARE / of_new.sum(), 1 / (~of_new).sum())
    rows, bias = head.weight.detach()[:, :, 0, 0], head.bias.detach()
    # The known classes count as one: the old rows already tell them apart.
    others = (features @ rows[~new].T + bias[~new]).logsumexp(1, keepdim=True)
    fitted = torch.cat([rows[new], bias[new, None]], 1).clone().requires_grad_(True)
    which = torch.where(of_new, new.long().cumsum(0)[classes], 0)
    optimizer = torch.optim.LBFGS([fitted], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        answers = (features @ fitted[:, :-1].T + fitted[:, -1]).masked_fill(silent, -torch.inf)
        logits = torch.cat([others, answers], 1)
        found = (F.cross_entropy(logits, which, reduction="none") * weights).sum()
        found = found + 1e-4 * fitted[:, :-1].square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        head.weight[new] = fitted[:, :-1, None, None].detach()
        head.bias[new] = fitted[:, -1].detach()


def _some(chosen: Tensor) -> Tensor:
    """Indices of at most `_MOST_PIXELS` of the chosen pixels, evenly spaced."""
    found = chosen.nonzero()[:, 0]
    return found[:: max(1, len(found) // _MOST_PIXELS)]
