"""The baseline of The Payne: a perceptron from labels to all pixels of a fixed grid.

Ting et al. 2019 (ApJ 879, 69): two hidden layers of 300 neurons, leaky ReLU.  Wider and
deeper is stronger (Różański & Ting 2024, arXiv:2407.05751): ``hidden=1024, layers=4``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from emulators.networks.pixels import FixedPixels
from emulators.networks.tokens import relabelled


class MLP(FixedPixels):
    """Scaled labels -> flux at the training pixels.

    Parameters
    ----------
    n_label : int
    wavelength : (n_pix,) tensor
        The training pixels, Angstrom.
    hidden : int
        Width of the hidden layers.
    layers : int
        Number of hidden layers.

    Raises
    ------
    ValueError
        For no hidden layer.
    """

    def __init__(
        self, n_label: int, wavelength: Tensor, *, hidden: int = 300, layers: int = 2
    ) -> None:
        super().__init__(wavelength)
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        widths = [n_label] + [hidden] * layers
        hidden_layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            hidden_layers += [nn.Linear(i, o), nn.LeakyReLU(0.01)]
        self.body = nn.Sequential(*hidden_layers, nn.Linear(hidden, len(wavelength)))
        self.config = {"hidden": hidden, "layers": layers}

    @property
    def matrices(self) -> list[str]:
        """Names of the weights of the hidden layers, the first, which takes the labels, too."""
        return [n for n, p in self.body.named_parameters(prefix="body") if p.ndim == 2][:-1]

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place."""
        self.body[0] = relabelled(self.body[0], M, c)  # type: ignore[arg-type]

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        return torch.as_tensor(self.body(labels))
