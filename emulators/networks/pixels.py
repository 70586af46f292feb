"""What networks share that give whole spectra: they know their training pixels alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedPixels(nn.Module):
    """Scaled labels -> flux at the training pixels, and nowhere else.

    A subclass gives the `depth` of all pixels, 1 - flux.

    Parameters
    ----------
    wavelength : (n_pix,) tensor
        The training pixels, Angstrom.
    """

    #: a network of this kind is trained on whole spectra
    all_pixels = True
    closed_form = False
    float32_part = None

    wavelength: Tensor

    def __init__(self, wavelength: Tensor) -> None:
        super().__init__()
        self.register_buffer("wavelength", wavelength.to(torch.float64), persistent=False)
        #: whether wavelengths between the training pixels are interpolated or refused
        self.interpolate = False

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        raise AssertionError("a subclass gives the depth")

    def forward(self, labels: Tensor, wavelength: Tensor) -> Tensor:
        """Return flux (n_spec, n_pix) of scaled labels (n_spec, n_label) at wavelength (n_pix,).

        Raises
        ------
        ValueError
            For a wavelength between training pixels, unless ``interpolate`` is set: then the
            flux is linear between them, in its derivative at a pixel too.  Beyond the ends it
            is that of the last pixel: :class:`emulators.Emulator` refuses such wavelengths.
        """
        depth = self.depth(labels)
        # Near 1, bfloat16 could not tell fluxes apart by less than 0.004.
        flux = 1.0 - (depth.float() if depth.dtype == torch.bfloat16 else depth)
        if not (self.interpolate and wavelength.requires_grad):  # pixels alone have no slope
            if wavelength.shape == self.wavelength.shape and torch.equal(
                    wavelength, self.wavelength):
                return flux
            if (first := self._run(wavelength)) is not None:
                return flux[..., first:first + len(wavelength)]
        right = torch.searchsorted(self.wavelength, wavelength.contiguous())
        right = right.clamp(1, len(self.wavelength) - 1)
        left = right - 1
        x0, x1 = self.wavelength[left], self.wavelength[right]
        weight = ((wavelength - x0) / (x1 - x0)).clamp(0.0, 1.0)
        # A training pixel is met to a thousandth of the pixel; more is between pixels.
        between = torch.minimum(weight, 1.0 - weight) > 1e-3
        if not self.interpolate and bool(between.any()):
            raise ValueError(
                f"this {type(self).__name__} knows only its {len(self.wavelength)} training "
                f"pixels and {int(between.sum())} of the wavelengths lie between them; set "
                f"emulators.load(..., interpolate=True) to interpolate linearly"
            )
        weight = weight.to(flux.dtype)
        return flux[..., left] * (1.0 - weight) + flux[..., right] * weight

    def _run(self, wavelength: Tensor) -> int | None:
        """Return where wavelengths that are neighbouring training pixels begin, if they are."""
        first = int((self.wavelength - wavelength[0]).abs().argmin())
        own = self.wavelength[first:first + len(wavelength)]
        same = len(own) == len(wavelength) and torch.allclose(own, wavelength, rtol=1e-9, atol=0.0)
        return first if same else None

    def evaluate(self, labels: Tensor, wavelength: Tensor, *, chunk: int) -> Tensor:
        """Return what :meth:`forward` returns, for as many stars at once as have 64 chunks.

        All pixels of a star come together, of one at least.
        """
        stars = max(1, 64 * chunk // len(self.wavelength))
        return torch.cat([self(some, wavelength) for some in torch.split(labels, stars)])
