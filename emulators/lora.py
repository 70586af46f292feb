"""Low-rank adapters: a fine-tuning that learns little and can be stored on its own.

Hu et al. 2021 (arXiv:2106.09685, eq. 3): a frozen weight W (out, in) of a linear layer is
replaced by

    W + (alpha / rank) B A,     B (out, rank), A (rank, in),

of which only A and B are learnt.  B starts at zero, so an adapted network starts as its
base.  The adapters are parametrizations (`torch.nn.utils.parametrize`): whoever reads
``layer.weight`` gets the adapted weight, the folded attention of the transformer included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Lora:
    """Which layers of a network get adapters, and of what size.

    Attributes
    ----------
    rank : int
    alpha : float, optional
        Scale of the update, which is multiplied by alpha / rank; the rank by default.
    targets : tuple of str
        Linear layers: the last part of their names, or a pattern of the whole such as
        ``blocks.0.*``.
    dropout : float
        Fraction of the entries of A that are zero in a training step.
    unfreeze : tuple of str
        Patterns of the other parameters that are learnt in full, such as ``*norm*`` or
        ``head.*``.

    Raises
    ------
    ValueError
        For a value of another kind, a rank below 1, a dropout outside [0, 1).
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ("query", "key", "value", "output", "up", "down")
    dropout: float = 0.0
    unfreeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("targets", "unfreeze"):  # lists and single words come from TOML and JSON
            given = getattr(self, name)
            if not isinstance(given, str) and not (
                    isinstance(given, list | tuple) and all(isinstance(g, str) for g in given)):
                raise ValueError(f"{name} must be a word or a list of words, got {given!r}")
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank must be an integer of at least 1, got {self.rank!r}")
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if not isinstance(self.alpha, int | float | None):
            raise ValueError(f"alpha must be a number, got {self.alpha!r}")

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LowRank(nn.Module):
    """The parametrization W -> W + scale B A of a weight (out, in)."""

    def __init__(self, weight: Tensor, lora: Lora) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.A = nn.Parameter(weight.new_empty(lora.rank, n_in))
        self.B = nn.Parameter(weight.new_zeros(n_out, lora.rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale, self.dropout = lora.scale, lora.dropout

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * self.B @ F.dropout(self.A, self.dropout, self.training)


def attach(network: nn.Module, lora: Lora) -> list[str]:
    """Put adapters on a network, in place, and freeze what they leave; return the layers.

    Raises
    ------
    ValueError
        When a target or a pattern of `unfreeze` matches nothing, listing what there is.
    """
    linear = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    chosen = _chosen(lora.targets, list(linear), "linear layer")
    network.requires_grad_(False)
    parameters = dict(network.named_parameters())
    for name in _chosen(lora.unfreeze, list(parameters), "parameter"):
        parameters[name].requires_grad_(True)
    for name in chosen:
        adapter = LowRank(linear[name].weight, lora).train(network.training)
        parametrize.register_parametrization(linear[name], "weight", adapter)
    return chosen


def _chosen(patterns: tuple[str, ...], names: list[str], what: str) -> list[str]:
    """Return the names that some pattern matches, whole or in their last part."""
    def matches(pattern: str, name: str) -> bool:
        return fnmatchcase(name, pattern) or name.rpartition(".")[2] == pattern

    for pattern in patterns:
        if not any(matches(pattern, n) for n in names):
            raise ValueError(f"no {what} matches {pattern!r}; there are: {', '.join(names)}")
    return [n for n in names if any(matches(p, n) for p in patterns)]


def merge(network: nn.Module) -> None:
    """Write the adapted weights into the network, in place, and take the adapters off."""
    network.eval()  # no dropout in what is written
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def merged(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a network as if its adapters had been merged.

    The network must not be training: dropout would be written into the weights.
    """
    state = {n: t.detach().clone() for n, t in network.state_dict().items()
             if ".parametrizations." not in n}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            state[f"{name}.weight"] = module.weight.detach().clone()
    return state


def adapted(network: nn.Module) -> dict[str, Tensor]:
    """Return what tells an adapted network from its base: adapters and unfrozen parameters."""
    return {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}


def apply(network: nn.Module, lora: Lora, tensors: dict[str, Tensor]) -> None:
    """Put stored adapters on a network, in place, and merge them.

    Raises
    ------
    ValueError
        When the tensors are not those of such adapters on such a network.
    """
    attach(network, lora)
    expected = {n: p.shape for n, p in adapted(network).items()}
    if expected != {n: t.shape for n, t in tensors.items()}:
        raise ValueError("these adapters belong to another network")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])
    merge(network)
