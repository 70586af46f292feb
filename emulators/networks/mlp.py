"""The Payne: a multilayer perceptron from labels to all pixels of a fixed grid.

Ting et al. 2019 (ApJ 879, 69): two hidden layers of 300 neurons, leaky ReLU.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Scaled labels -> flux at the training pixels, and nowhere else.

    Parameters
    ----------
    n_label : int
    wavelength : (n_pix,) tensor
        The training pixels, Angstrom.
    hidden : int
        Width of the hidden layers.
    layers : int
        Number of hidden layers.
    """

    #: a network of this kind is trained on whole spectra
    all_pixels = True

    wavelength: Tensor

    def __init__(
        self, n_label: int, wavelength: Tensor, *, hidden: int = 300, layers: int = 2
    ) -> None:
        super().__init__()
        widths = [n_label] + [hidden] * layers
        hidden_layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            hidden_layers += [nn.Linear(i, o), nn.LeakyReLU(0.01)]
        self.body = nn.Sequential(*hidden_layers, nn.Linear(hidden, len(wavelength)))
        self.config = {"hidden": hidden, "layers": layers}
        self.register_buffer("wavelength", wavelength.to(torch.float64), persistent=False)
        #: whether wavelengths between the training pixels are interpolated or refused
        self.interpolate = False

    def forward(self, labels: Tensor, wavelength: Tensor) -> Tensor:
        """Return flux (n_spec, n_pix) of scaled labels (n_spec, n_label) at wavelength (n_pix,).

        Raises
        ------
        ValueError
            For a wavelength that is not one of the training pixels, unless
            ``interpolate`` is set: then the flux is linear between them.
        """
        depth: Tensor = self.body(labels)
        flux = 1.0 - (depth.float() if depth.dtype == torch.bfloat16 else depth)
        if wavelength.shape == self.wavelength.shape and torch.equal(wavelength, self.wavelength):
            return flux
        right = torch.searchsorted(self.wavelength, wavelength).clamp(1, len(self.wavelength) - 1)
        left = right - 1
        x0, x1 = self.wavelength[left], self.wavelength[right]
        weight = ((wavelength - x0) / (x1 - x0)).clamp(0.0, 1.0)
        # A training pixel is met to a thousandth of the pixel; more is between pixels.
        between = torch.minimum(weight, 1.0 - weight) > 1e-3
        if not self.interpolate and bool(between.any()):
            raise ValueError(
                f"this MLP knows only its {len(self.wavelength)} training pixels and "
                f"{int(between.sum())} of the wavelengths lie between them; set "
                f"emulators.load(..., interpolate=True) to interpolate linearly"
            )
        weight = weight.to(flux.dtype)
        return flux[..., left] * (1.0 - weight) + flux[..., right] * weight

    def evaluate(self, labels: Tensor, wavelength: Tensor, *, chunk: int) -> Tensor:
        """Return what :meth:`forward` returns: one product gives all pixels, none to chunk."""
        return torch.as_tensor(self(labels, wavelength))
