"""A spectrum as a sum of components, a perceptron saying how much of each: fast, for surveys.

    depth = m + B c(labels),     B (n_pix, n_component)

Principal components span nearly all that spectra of a grid differ in (Czekala et al. 2015, ApJ
812, 128, interpolate their weights): a few hundred numbers say what thousands of pixels
do, and the widest product of the network is that with B.
:meth:`Components.begin` sets m and B from spectra; training may then refine them.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from emulators.networks.pixels import FixedPixels
from emulators.networks.tokens import relabelled


class Components(FixedPixels):
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
    components : int
        At most as many as there are pixels.
    """

    def __init__(
        self, n_label: int, wavelength: Tensor, *, hidden: int = 512, layers: int = 3,
        components: int = 192,
    ) -> None:
        super().__init__(wavelength)
        widths = [n_label] + [hidden] * layers
        steps: list[nn.Module] = []
        for i, o in pairwise(widths):
            steps += [nn.Linear(i, o), nn.SiLU()]
        self.body = nn.Sequential(*steps, nn.Linear(hidden, components))
        self.decoder = nn.Linear(components, len(wavelength))
        self.config = {"hidden": hidden, "layers": layers, "components": components}

    @property
    def matrices(self) -> list[str]:
        """Names of the weights of the hidden layers."""
        return [n for n, p in self.body.named_parameters(prefix="body") if p.ndim == 2][1:-1]

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place."""
        self.body[0] = relabelled(self.body[0], M, c)  # type: ignore[arg-type]

    def coefficients(self, labels: Tensor) -> Tensor:
        """Return c (n_spec, n_component) of scaled labels."""
        return torch.as_tensor(self.body(labels))

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        return torch.as_tensor(self.decoder(self.coefficients(labels)))

    def begin(self, flux: Tensor) -> float:
        """Take mean and principal components of spectra (n_spec, n_pix), in place.

        Components come in units of their standard deviation, so that coefficients are of
        order one.

        Returns
        -------
        float
            Root mean square of what the components leave of the spectra.
        """
        depth = 1.0 - flux.double()
        mean = depth.mean(0)
        rest = depth - mean
        values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))  # ascending
        count = self.config["components"]
        with torch.no_grad():
            self.decoder.bias.copy_(mean)
            self.decoder.weight.copy_(vectors[:, -count:] * values[-count:].clamp(min=0).sqrt())
        left = float(values[:-count].clamp(min=0).sum()) if count < len(values) else 0.0
        return math.sqrt(left / len(mean))
