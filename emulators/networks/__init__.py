"""The architectures, one per file, all with what training and :class:`emulators.Emulator` ask for.

An architecture is an `nn.Module` whose constructor takes the number of labels, the training pixels
and, by keyword, its own options.  Labels reach it scaled, wavelengths in float64 Angstrom.  It has

==================  =========================================================================
``all_pixels``      whether it must be trained on whole spectra
``closed_form``     whether ``solver()`` gives its weights without steps of an optimiser
``float32_part``    how the names of weights begin that stay in float32, labels too, when the
                    rest is bfloat16; None for none
``config``          the options that rebuild it
``matrices``        names of the weights that Muon may update: matrices of hidden layers
``relabel(M, c)``   takes labels that give the old ones by ``old = M @ new + c``, in place;
                    those that no old one depends on have no effect at first
``forward``         flux (n_spec, n_pix) of labels and wavelengths
``evaluate``        the same in bounded memory, `chunk` setting how much at a time
==================  =========================================================================

`emulators.networks.pixels.FixedPixels` has most of it for those that give whole spectra.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from emulators.labels import unknown_names
from emulators.networks.cannon import Cannon
from emulators.networks.cnn import CNN
from emulators.networks.components import Components
from emulators.networks.mlp import MLP
from emulators.networks.transformer import Transformer

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
        For an unknown kind or option, listing the valid kinds; for options that make no network,
        and fewer than two pixels.
    """
    if kind not in NETWORKS:
        raise ValueError(f"unknown network {kind!r}; valid: {', '.join(NETWORKS)}")
    if wrong := [name for name in options if name not in options_of(kind)]:
        raise unknown_names(wrong, options_of(kind), what=f"option of {kind}")
    if len(wavelength) < 2:
        raise ValueError(f"a network needs two pixels or more, got {len(wavelength)}")
    try:
        return NETWORKS[kind](n_label, wavelength, **options)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error


def kind_of(network: nn.Module) -> str:
    """Return the name of a network's architecture in ``NETWORKS``."""
    return next(kind for kind, cls in NETWORKS.items() if type(network) is cls)
