"""A network that is fitted by several workers: what they call, and what they keep to go on from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.models.network import Network, Neural

MEMORY_FILE = "optimizer.safetensors"


class Members(nn.Module):  # type: ignore[misc]
    """The members' answers as a call: what DistributedDataParallel wraps."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """As `Network.members`."""
        return self.network.members(x)


def save(module: Network, optimizer: torch.optim.Optimizer, epoch: int, folder: Path) -> None:
    """A checkpoint: the network as it is kept, beside it what AdamW remembers and the epoch."""
    Neural(module).save(folder)
    state = optimizer.state_dict()["state"]
    memory = {f"{at}.{name}": value.contiguous() for at, one in state.items() for name, value in one.items()}
    save_file(memory | {"epoch": torch.tensor(epoch)}, str(folder / MEMORY_FILE))


def resume(optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Give the optimizer the memory of a checkpoint; the epochs done, none where the network has not learned yet."""
    if not (folder / MEMORY_FILE).exists():
        return 0
    memory = load_file(str(folder / MEMORY_FILE))
    done, state = int(memory.pop("epoch")), defaultdict[int, dict[str, Tensor]](dict)
    for key, value in memory.items():
        at, name = key.split(".")
        state[int(at)][name] = value
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})
    return done
