"""The processes that train one emulator together: torch's own, started by ``torchrun``."""

from __future__ import annotations

import atexit
import gc
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; one alone is number 0 of 1.

    Attributes
    ----------
    rank, world : int
        Number of this process, and how many there are.
    device : str
        Where this one computes.
    """

    rank: int
    world: int
    device: str

    @property
    def first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def share(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        if self.world == 1:
            return module
        ids = [torch.device(self.device)] if self.device.startswith("cuda") else None
        return DistributedDataParallel(module, device_ids=ids)

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a block in which gradients add up without being shared."""
        if isinstance(module, DistributedDataParallel):
            return module.no_sync()
        return nullcontext()

    def meet(self) -> None:
        """Wait until all processes have come this far."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, value: Any) -> Any:
        """Return what the first process has, in all of them."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device(self.device))
        return box[0]


def processes(device: str) -> Processes:
    """Join the processes that ``torchrun`` started, for as long as this one lives.

    Without ``torchrun`` there is one.  On ``cuda`` each process of a machine takes a GPU of
    its own and they talk through NCCL, else through gloo.

    Raises
    ------
    ValueError
        For a device that this machine, or this build of torch, does not have.
    """
    check_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(0, 1, device)
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # Once for all trainings: a second group would meet at the addresses that the first left.
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(_part)
    return Processes(distributed.get_rank(), world, device)


def check_device(device: str | torch.device) -> None:
    """Raise ValueError for a device that this machine, or this build of torch, does not have."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); cpu can"
                         ) from error


def _part() -> None:
    """Leave the group, once nothing that would call it is left."""
    gc.collect()  # the modules that shared gradients sit in cycles
    distributed.destroy_process_group()
