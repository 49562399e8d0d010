"""Models on disk: one safetensors file that holds weights, network settings and card.

safetensors (Hugging Face) stores plain tensors and strings, so opening a model runs no code. The
format detects a file of wrong length; a hash of the weights detects changed ones.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.network.config import NetworkConfig

if TYPE_CHECKING:
    from l2gnet_core.network.model import SegmentationNetwork

FORMAT = "l2gnet-1"
MODEL_FILE = "model.safetensors"
#: State of a training run for resuming it; it is written before the model.
STATE_FILE = "state.pt"
#: The patients of a training run, by part.
SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Model:
    """A network ready for inference, with its card."""

    network: SegmentationNetwork
    card: ModelCard


def find_model_file(path: Path) -> Path:
    """The model file at a path, which may be the file itself or a folder that training wrote.

    Raises InputError if there is none.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file() and (path / STATE_FILE).is_file():
        raise InputError(
            f"Expected a model in {path}, but a run has none before its first epoch ends; wait for "
            "that, or go on with `l2gnet train --resume`."
        )
    if not path.exists():
        raise InputError(
            f"Expected a model file or a folder with {MODEL_FILE}, but there is no {path}; "
            "`l2gnet models` lists the models at hand, and `l2gnet_core.models.catalog.find_model` "
            "gives the file of one by its name."
        )
    if not file.is_file():
        raise InputError(
            f"Expected a model file or a folder with {MODEL_FILE}, but {path} is neither; "
            "`l2gnet models` lists the models at hand."
        )
    return file


def read_card(path: Path) -> ModelCard:
    """The card alone, without loading weights or PyTorch.

    Raises InputError if the file is not a model of this package.
    """
    return _parse(path)[1]


def read_config(path: Path) -> NetworkConfig:
    """The settings of the network alone, without loading weights or PyTorch.

    Raises InputError if the file is not a model of this package.
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[NetworkConfig, ModelCard]:
    metadata = _read_metadata(path)
    try:
        network = NetworkConfig.from_json(json.loads(metadata["network"]))
        return network, ModelCard.from_json(json.loads(metadata["card"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"Expected a model that this version knows in {path}, but its card or network has "
            "other fields or values; update napari-l2gnet or train the model again."
        ) from error


def _read_metadata(path: Path) -> dict[str, str]:
    # 8 bytes of header length, then a JSON header (safetensors' README). Read directly, so that a
    # list of models does not import PyTorch.
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError
            metadata: dict[str, str] = json.loads(file.read(length))["__metadata__"]
        family, _, number = metadata["format"].rpartition("-")
        if family != FORMAT.rpartition("-")[0] or not number.isdecimal():
            raise ValueError
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise InputError(
            f"Expected a model that l2gnet saved, but {path} is not one; "
            "choose a .safetensors file written by `l2gnet train` or `l2gnet finetune`."
        ) from error
    if metadata["format"] != FORMAT:
        raise InputError(
            f"Expected a model of format {FORMAT}, but {path} has {metadata['format']}; update "
            "napari-l2gnet."
        )
    return metadata


def save_model(path: str | os.PathLike[str], network: SegmentationNetwork, card: ModelCard) -> Path:
    """Write weights, settings and card to one file, atomically. Raises OutputError."""
    from safetensors.torch import save

    from l2gnet_core.files.atomic import replace_file
    from l2gnet_core.models.weights import tensors_hash

    path = Path(path)
    tensors = {name: t.detach().contiguous().cpu() for name, t in network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "network": json.dumps(network.config.to_json()),
        "card": json.dumps(card.to_json()),
        "weights_sha256": tensors_hash(tensors),
    }
    content = save(tensors, metadata)

    def write(file: BinaryIO) -> None:
        file.write(content)

    def check(file: Path) -> None:
        read_card(file)

    replace_file(path, path.suffix, write, check)
    return path


def load_model(path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """Read a model file or run folder; the network comes in evaluation mode on `device`, which is
    as in `l2gnet_core.network.device.choose_device`.

    Raises InputError if the file is not a model of this package or is damaged, and for a device
    that is not there.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from l2gnet_core.models.weights import tensors_hash
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.network.model import build

    device, _ = choose_device(device)
    file = find_model_file(Path(path))
    config, card = _parse(file)
    try:
        # `build` may raise: each setting can be valid and their combination not.
        network = build(config)
        # Not from the file itself: safetensors maps it, and Windows refuses to replace a file that
        # is mapped, here for as long as an error refers to the tensors.
        tensors: dict[str, Any] = load(file.read_bytes())
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"Expected the weights of a whole model in {file}, but they are damaged or incomplete; "
            "copy or download the file again."
        ) from error
    if tensors_hash(tensors) != _read_metadata(file).get("weights_sha256"):
        raise InputError(
            f"Expected the weights in {file} as they were saved, but some of them are others; copy "
            "or download the file again."
        )
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise InputError(
            f"Expected finite weights in {file}, but some of them are no numbers; copy or download "
            "the file again, or train the model anew."
        )
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Model(network, card)
