"""One arm's part of the forward model: from the broadened star to the arm's pixels.

The star is interpolated where the instrument resolves more than the emulator's training
pixels sample, then shifted, convolved with the line-spread function and integrated over
pixels in one linear map.  A Gaussian line-spread function of 0.7 steps or more is integrated
by its sum over the grid to 1e-4 of what varies between neighbouring points (Poisson
summation: 2 exp(-2 pi^2 0.7^2)); for a narrower one the steps are divided.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp

from emulators import Emulator
from stellarfit.arm import Arm
from stellarfit.constants import SIGMA_PER_FWHM, SPEED_OF_LIGHT
from stellarfit.doppler import log_shift
from stellarfit.interpolation import EDGE, refine
from stellarfit.lsf import LineSpread, Product, gathered, sigma_of
from stellarfit.parameters import RESOLUTION_MARGIN

SMALLEST_SIGMA = 0.7  # of the line-spread function, in steps of the rest-frame grid
LARGEST_REFINEMENT = 4
#: the same for a Gauss-Hermite profile, whose transform reaches further
SMALLEST_SIGMA_HERMITE = 1.0
#: of the rest-frame grid, where nothing but a pixel's edges smooth the sum over it
STEPS_PER_PIXEL = 60
#: an instrument must be less resolving than an emulator's own spectra by this factor
SHARPEST = 0.95


def refinement_for(emulator: Emulator, resolution: float, *, gaussian: bool = True) -> int:
    """Return into how many steps each training pixel must be divided at this resolution."""
    smallest = SMALLEST_SIGMA if gaussian else SMALLEST_SIGMA_HERMITE
    needed = smallest * emulator.log_step * resolution / SIGMA_PER_FWHM
    return min(LARGEST_REFINEMENT, max(1, math.ceil(needed - 1e-6)))


def _refinement_for_pixels(arm: Arm, log_step: float) -> int:
    """Return the same where a matrix brings the profile and only pixels are integrated over."""
    pixel = float(np.diff(np.log(arm.wavelength)).min())
    return min(LARGEST_REFINEMENT, max(1, math.ceil(STEPS_PER_PIXEL * log_step / pixel)))


def missing_resolution(resolution: float, emulator: Emulator) -> float:
    """Return the resolution of what must broaden the emulator's spectra to this one.

    Raises
    ------
    ValueError
        When they are broader already.
    """
    own = emulator.resolution
    if own is None:
        return resolution
    if resolution >= SHARPEST * own:
        raise ValueError(
            f"'{emulator.name}' was trained on spectra of R = {own:g}: it cannot show what an "
            f"instrument of R = {resolution:g} sees"
        )
    return resolution / math.sqrt(1.0 - (resolution / own) ** 2)


class Camera:
    """One arm's part of the forward model: from the broadened star to the arm's pixels.

    Parameters
    ----------
    arm : Arm
    log_start, log_step : float
        First training pixel of the rest-frame grid, and their spacing, in ln(wavelength).
    n_grid : int
    resolution : float
        That the fit gives the arm, or begins with.
    free : bool
        Whether the fit may change it.
    """

    def __init__(
        self, arm: Arm, emulator: Emulator, *, log_start: float, n_grid: int,
        resolution: float, free: bool,
    ) -> None:
        self.arm = arm
        instrument = arm.instrument.scaled_to(resolution)
        each = instrument.resolution_at(arm.wavelength)
        margin = RESOLUTION_MARGIN if free else 1.0
        log_step = emulator.log_step
        self.largest = float(each.max()) * margin
        self.smallest = float(each.min()) / margin
        self._own = 0.0 if emulator.resolution is None else SIGMA_PER_FWHM / emulator.resolution
        needed = missing_resolution(self.largest, emulator)
        self.refinement = (_refinement_for_pixels(arm, log_step) if arm.matrix
                           else refinement_for(emulator, needed,
                                                gaussian=instrument.gaussian))
        self.spread = LineSpread(
            arm.wavelength, log_start=log_start, log_step=log_step / self.refinement,
            n_grid=self.refinement * (n_grid - 1) + 1,
            smallest_resolution=1.0 / log_step if arm.matrix else self.smallest,
            h3=instrument.h3, h4=instrument.h4, device=emulator.device,
        )
        self.relative = torch.as_tensor(each / resolution, device=emulator.device)
        self.margin = (self.refinement > 1) * EDGE * log_step

    def __call__(
        self, broadened: Tensor, index: Tensor, weights: Tensor,
        product: Product = gathered,
    ) -> Tensor:
        """Return flux (..., n_spec, n_pix) of the star (..., n_spec, n_grid).

        Parameters
        ----------
        broadened : (..., n_spec, n_grid)
            Or derivatives of it.
        index, weights : (n_spec, n_pix, band)
            What :meth:`weights` returns, or derivatives of the weights.
        product : callable
            How the sums are taken: `stellarfit.lsf.gathered` or `stellarfit.lsf.multiplied`.
        """
        detected = product(refine(broadened, self.refinement), index, weights)
        return detected if self.arm.matrix is None else self.arm.matrix.apply(detected)

    def weights(self, rv: Tensor, resolution: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return which points of the refined grid each pixel sees, and their weights.

        Parameters
        ----------
        rv, resolution : (n_spec,) float64
        dtype : torch.dtype
            Of the flux.

        Returns
        -------
        index, weights : (n_spec, n_pix, band)
            The weights are differentiable.
        """
        return self.spread.weights(*self._place(rv, resolution), dtype)

    def weights_along(
        self, rv: Tensor, resolution: Tensor, moved: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return the derivative of the weights as the resolution (n_spec,) moves."""
        def sigma(r: Tensor) -> Tensor:
            return self._place(rv, r)[1]

        width, wider = jvp(sigma, (resolution,), (moved,))[:2]
        return self.spread.weights_along(log_shift(rv), width, wider, dtype)

    def _place(self, rv: Tensor, resolution: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and sigma, in ln(wavelength)."""
        if self.arm.matrix is not None:
            # Edges as soft as the sum over the grid needs them, which is next to nothing.
            sigma = torch.full_like(resolution, SMALLEST_SIGMA * self.spread.log_step)
        else:
            sigma = sigma_of(resolution)
            if self.arm.instrument.table:
                sigma = sigma.unsqueeze(-1) / self.relative
            # The emulator's spectra are as broad as this already.
            sigma = torch.sqrt(sigma**2 - self._own**2) if self._own else sigma
        return log_shift(rv), sigma

    def covers(self, log_low: float, log_high: float, rv_range: tuple[float, float]
               ) -> NDArray[np.bool_]:
        """Return which pixels see light from within a window at every velocity, (n_pix,)."""
        shifts = np.arctanh(np.array(rv_range) / SPEED_OF_LIGHT)
        reach = self.spread.reach(self.smallest) + self.margin
        if self.arm.matrix is not None:
            half = self.arm.matrix.band.shape[0] // 2
            reach += half * float(np.median(np.diff(np.log(self.arm.wavelength))))
        rest = np.log(self.arm.wavelength)
        return np.asarray(
            (rest - shifts.max() - reach >= log_low) & (rest - shifts.min() + reach <= log_high)
        )
