"""Networks on disk: save a network's parameters and buffers, and load them into a network of the same shapes.

    checkpoint.save(network, "network.safetensors")
    checkpoint.load(network, "network.safetensors")

The format is safetensors: names, shapes, dtypes and numbers, nothing that could be executed. `torch.save` writes
pickles, which can run code of their author when they are opened, and rely on the reader's restrictions. Networks of diy
and of PyTorch can read each other's files, for their state dictionaries are the same.
"""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors import torch as safetensors

from experiments.results import write_atomically


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or does not fit the network."""


def save(network, path: str | os.PathLike) -> None:
    """Write the parameters and buffers of a diy or PyTorch network to `path`, in one go.

    Raises:
        OSError: the file cannot be written; an old one is still there, as it was.
    """
    # Copies, for tensors that share memory (a module used twice) are stored under each of their names.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.save(tensors, metadata={"format": "pt"}))


def load(network, path: str | os.PathLike) -> None:
    """Copy what `save` wrote into the parameters and buffers of `network`. A refused file changes nothing.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not in the format of safetensors or is damaged, or its names, shapes or dtypes are
            not those of the network.
    """
    content = Path(path).read_bytes()
    try:
        tensors = safetensors.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or a damaged one ({error}); "
            "other formats, such as the pickles of torch.save, are never opened, because they can run code"
        ) from error
    own = network.state_dict()
    missing, unknown = [n for n in own if n not in tensors], [n for n in tensors if n not in own]
    if missing or unknown:
        raise CheckpointError(f"{path} does not fit the network: missing {missing}, unknown {unknown}")
    for name, tensor in own.items():
        got, wanted = _kind(tensors[name]), _kind(tensor)
        if got != wanted:
            raise CheckpointError(f"{path} does not fit the network: {name} is {got} in the file and {wanted} here")
    network.load_state_dict(tensors)


def _kind(tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
