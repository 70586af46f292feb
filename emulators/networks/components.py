"""A spectrum as a sum of components, a perceptron saying how much of each: fast, for surveys.

    depth = m + B c(labels),     B (n_pix, n_component)

Principal components span nearly all that spectra of a grid differ in (Czekala et al. 2015, ApJ
812, 128, interpolate their weights): a few hundred numbers say what thousands of pixels
do, and the widest product of the network is that with B.  Of dozens of labels few move
much: each enters by as much as it does (`SHARE`), so that the perceptron need not learn, from
noise, which to overlook.  Its layers add to what came before them (He et al. 2016, CVPR 770), which
lets it be deep.  :meth:`Components.begin` takes m, B and what labels do from spectra; training may
then refine all but the last.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emulators.networks.pixels import FixedPixels
from emulators.networks.tokens import relabelled

#: an input's size goes with this power of what its label does to spectra
SHARE = 0.75


class Layer(nn.Module):
    """x -> x + SiLU(W x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.within = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) of (..., width)."""
        return x + F.silu(self.within(x))


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
        Number of hidden layers; all but the first add to what came before.
    components : int, optional
        At most as many as there are pixels; 576, or as many as there are, by default.

    Raises
    ------
    ValueError
        For no hidden layer, no component, or more components than pixels.
    """

    share: Tensor

    def __init__(
        self, n_label: int, wavelength: Tensor, *, hidden: int = 512, layers: int = 6,
        components: int | None = None,
    ) -> None:
        super().__init__(wavelength)
        components = min(576, len(wavelength)) if components is None else components
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        if not 1 <= components <= len(wavelength):
            raise ValueError(f"components must be at least 1 and at most the {len(wavelength)} "
                             f"pixels, got {components}")
        deeper = [Layer(hidden) for _ in range(layers - 1)]
        self.body = nn.Sequential(nn.Linear(n_label, hidden), nn.SiLU(), *deeper,
                                  nn.Linear(hidden, components))
        self.decoder = nn.Linear(components, len(wavelength))
        #: what labels are multiplied with
        self.register_buffer("share", torch.ones(n_label))
        self.config = {"hidden": hidden, "layers": layers, "components": components}

    @property
    def matrices(self) -> list[str]:
        """Names of the weights between hidden layers."""
        return [n for n, p in self.body.named_parameters(prefix="body") if p.ndim == 2][1:-1]

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place."""
        with torch.no_grad():
            self.body[0].weight.mul_(self.share)  # type: ignore[operator]
        self.body[0] = relabelled(self.body[0], M, c)  # type: ignore[arg-type]
        self.share = self.share.new_ones(M.shape[1])

    def coefficients(self, labels: Tensor) -> Tensor:
        """Return c (n_spec, n_component) of scaled labels."""
        return torch.as_tensor(self.body(labels * self.share.to(labels.dtype)))

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        return torch.as_tensor(self.decoder(self.coefficients(labels)))

    def begin(self, labels: Tensor, flux: Tensor) -> float:
        """Take mean, principal components and what labels do from spectra, in place.

        Components come in units of their standard deviation, so that coefficients are of
        order one; what a label does is its row of the linear map to the spectra that fits best.

        Parameters
        ----------
        labels : (n_spec, n_label) tensor
            Scaled.
        flux : (n_spec, n_pix) tensor

        Returns
        -------
        float
            Root mean square of what the components leave of the spectra.
        """
        depth = 1.0 - flux.double()
        mean = depth.mean(0)
        rest = depth - mean
        values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))  # ascending
        x = labels.double() - labels.double().mean(0)
        moved = (torch.linalg.pinv(x) @ rest).norm(dim=1) ** SHARE
        count = self.config["components"]
        with torch.no_grad():
            self.share.copy_(moved / moved.square().mean().sqrt().clamp(min=1e-30))
            self.decoder.bias.copy_(mean)
            self.decoder.weight.copy_(vectors[:, -count:] * values[-count:].clamp(min=0).sqrt())
        left = float(values[:-count].clamp(min=0).sum()) if count < len(values) else 0.0
        return math.sqrt(left / len(mean))
