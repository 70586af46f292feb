"""The architectures, one per file, behind one Protocol."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from torch import Tensor, nn

from emulators.labels import unknown_names
from emulators.networks.cannon import Cannon
from emulators.networks.cnn import CNN
from emulators.networks.components import Components
from emulators.networks.mlp import MLP
from emulators.networks.transformer import Transformer


class Network(Protocol):
    """What an architecture offers to training and to :class:`emulators.Emulator`.

    It is an `nn.Module` whose constructor takes the number of labels, the training pixels
    and its own options; labels reach it scaled, wavelengths in float64 Angstrom.
    """

    #: whether it must be trained on whole spectra
    all_pixels: bool
    #: whether `solver()` gives its weights without steps of an optimiser
    closed_form: bool
    #: how the names of weights begin that stay in float32, labels too, when the rest is bfloat16
    float32_part: str | None
    #: the options that rebuild it
    config: dict[str, Any]

    @property
    def matrices(self) -> list[str]:
        """Names of the weights that Muon may update: those between hidden layers."""

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place.

        Labels that no old one depends on have no effect at first.
        """

    def __call__(self, labels: Tensor, wavelength: Tensor) -> Tensor:
        """Return flux (n_spec, n_pix)."""

    def evaluate(self, labels: Tensor, wavelength: Tensor, *, chunk: int) -> Tensor:
        """Return the same in bounded memory: at most about `chunk` fluxes at a time."""


NETWORKS: dict[str, type[nn.Module]] = {
    "transformer": Transformer, "mlp": MLP, "cnn": CNN, "cannon": Cannon,
    "components": Components,
}


def options_of(kind: str) -> list[str]:
    """Return the options of a kind of network named in ``NETWORKS``."""
    parameters = inspect.signature(NETWORKS[kind]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def build(kind: str, n_label: int, wavelength: Tensor, **options: Any) -> nn.Module:
    """Return an untrained network of a kind named in ``NETWORKS``.

    Raises
    ------
    ValueError
        For an unknown kind or option, listing the valid kinds.
    """
    if kind not in NETWORKS:
        raise ValueError(f"unknown network {kind!r}; valid: {', '.join(NETWORKS)}")
    if wrong := [name for name in options if name not in options_of(kind)]:
        raise unknown_names(wrong, options_of(kind), what=f"option of {kind}")
    try:
        return NETWORKS[kind](n_label, wavelength, **options)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error


def kind_of(network: nn.Module) -> str:
    """Return the name of a network's architecture in ``NETWORKS``."""
    return next(kind for kind, cls in NETWORKS.items() if type(network) is cls)
