"""The forward model: the emulator and the observing stages, composed.

labels -> flux at the training pixels -> rotation -> interpolation, where the instrument
resolves more than they sample -> Doppler shift, line-spread function and pixels.  The
continuum is not here: it is linear and solved for (`continuum`).  Every stage is
differentiable and works on a batch of stars that share observed pixels.

The rest-frame grid is that of the training pixels where they are uniform in ln(wavelength):
there alone was the emulator held to the synthesis.  A Gaussian line-spread function of 0.7
steps or more is integrated by its sum over the grid to 1e-4 of what varies between
neighbouring points (Poisson summation: 2 exp(-2 pi^2 0.7^2)); for a narrower one the steps
are divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp, vmap

from emulators import Emulator
from stellarfit.doppler import SPEED_OF_LIGHT, log_shift
from stellarfit.interpolation import EDGE, refine
from stellarfit.lsf import SIGMA_PER_FWHM, LineSpread, sigma_of
from stellarfit.parameters import RESOLUTION_MARGIN, STAGES, Parameters
from stellarfit.rotation import nodes_for, rotate

SMALLEST_SIGMA = 0.7  # of the line-spread function, in steps of the rest-frame grid
LARGEST_REFINEMENT = 4
#: room (km/s) for rotation around observed pixels, beyond the range of velocities
ROTATION_MARGIN = 300.0


def refinement_for(emulator: Emulator, resolution: float) -> int:
    """Return into how many steps each training pixel must be divided at this resolution."""
    needed = SMALLEST_SIGMA * emulator.log_step * resolution / SIGMA_PER_FWHM
    return min(LARGEST_REFINEMENT, max(1, math.ceil(needed - 1e-6)))


def _tangent(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function along a direction."""
    return torch.as_tensor(jvp(function, (at,), (direction,))[1])


class ForwardModel:
    """Free parameters -> normalised flux at observed pixels.

    Parameters
    ----------
    emulator : Emulator
    parameters : Parameters
    wavelength : (n_pix,) float64
        Observed pixels, Angstrom, in the emulator's medium.
    resolution : float
        Of the instrument.
    rv_range : (float, float)
        Velocities, km/s, at which the model must hold.

    Attributes
    ----------
    covered : (n_pix,) bool
        Pixels whose light comes from within the emulator's range at every velocity of
        `rv_range`; the others are to be ignored.
    """

    def __init__(
        self, emulator: Emulator, parameters: Parameters, wavelength: NDArray[np.float64], *,
        resolution: float, rv_range: tuple[float, float] = (-50.0, 50.0),
    ) -> None:
        self.emulator, self.parameters = emulator, parameters
        self.wavelength = np.asarray(wavelength, dtype=float)
        # Fixed or free, it may differ from the instrument's.
        free = "resolution" in parameters.names
        margin = RESOLUTION_MARGIN if free else 1.0
        if not free:
            resolution = float(parameters.stage_b[list(STAGES).index("resolution")])
        smallest = resolution / margin
        self.log_step = emulator.log_step
        self.refinement = refinement_for(emulator, resolution * margin)
        log_low, log_high = np.log(emulator.wavelength_range)
        self._settle_grid(log_low, log_high, rv_range, smallest)
        self.spread = LineSpread(
            self.wavelength, log_start=self.log_start, log_step=self.log_step / self.refinement,
            n_grid=self.refinement * (len(self.grid) - 1) + 1, smallest_resolution=smallest,
            device=emulator.device,
        )
        self.covered = self._covered(log_low, log_high, rv_range, smallest)

        def tensor(x: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(x, dtype=torch.float64, device=emulator.device)

        self._A, self._b = tensor(parameters.A), tensor(parameters.b)
        self._stage_A, self._stage_b = tensor(parameters.stage_A), tensor(parameters.stage_b)
        self._moves_labels = (self._A != 0).any(0)
        self._moves_stages = (self._stage_A != 0).any(0)

    def _settle_grid(
        self, log_low: float, log_high: float, rv_range: tuple[float, float], resolution: float
    ) -> None:
        """Cover what the observed pixels need, in whole steps from the first training pixel."""
        shifts = np.arctanh(np.array(rv_range) / SPEED_OF_LIGHT)
        margin = 8.0 * SIGMA_PER_FWHM / resolution + ROTATION_MARGIN / SPEED_OF_LIGHT
        need_low = np.log(self.wavelength[0]) - shifts.max() - margin
        need_high = np.log(self.wavelength[-1]) - shifts.min() + margin
        last = math.floor((log_high - log_low) / self.log_step + 1e-3)
        first = min(max(0, math.floor((need_low - log_low) / self.log_step)), last - 1)
        stop = max(min(last, math.ceil((need_high - log_low) / self.log_step)), first + 1)
        self.log_start = log_low + first * self.log_step
        self._pixels = slice(first, stop + 1)
        grid = np.exp(self.log_start + self.log_step * np.arange(stop - first + 1))
        # Rounding must not carry the ends beyond the emulator's range.
        grid = np.clip(grid, *self.emulator.wavelength_range)
        self.grid = torch.as_tensor(grid, device=self.emulator.device)

    def _covered(
        self, log_low: float, log_high: float, rv_range: tuple[float, float], resolution: float
    ) -> NDArray[np.bool_]:
        shifts = np.arctanh(np.array(rv_range) / SPEED_OF_LIGHT)
        reach = self.spread.reach(resolution) + (self.refinement > 1) * EDGE * self.log_step
        rest = np.log(self.wavelength)
        return np.asarray(
            (rest - shifts.max() - reach >= log_low) & (rest - shifts.min() + reach <= log_high)
        )

    def labels(self, theta: Tensor) -> Tensor:
        """Return the emulator's labels (n_spec, n_label) of theta (n_spec, n_free), float64."""
        return theta @ self._A.T + self._b

    def stages(self, theta: Tensor) -> Tensor:
        """Return rv, vsini, resolution, epsilon, (n_spec, 4), of theta."""
        return theta @ self._stage_A.T + self._stage_b

    def __call__(self, theta: Tensor) -> Tensor:
        """Return normalised flux (n_spec, n_pix) of theta (n_spec, n_free) float64."""
        stages = self.stages(theta)
        return self.observe(self._at_rest(self.labels(theta)), stages, self._nodes(stages))

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flux (n_spec, n_pix) and its derivatives (n_spec, n_pix, n_free).

        Forward-mode, all stars at once, one tangent per free parameter.  Only those that
        move a label pass through the emulator, and the stages after it are linear in the
        flux: they treat its tangents as they treat the flux.
        """
        with torch.no_grad():
            labels, stages = self.labels(theta), self.stages(theta)
            nodes = self._nodes(stages)

            def label_tangent(direction: Tensor) -> Tensor:
                return _tangent(self._at_rest, labels, direction.expand_as(labels))

            def stage_tangent(direction: Tensor) -> Tensor:
                def observed(stages: Tensor) -> Tensor:
                    return self.observe(rest, stages, nodes)

                return _tangent(observed, stages, direction.expand_as(stages))

            rest = self._at_rest(labels)
            flux = self.observe(rest, stages, nodes)
            columns = flux.new_zeros(len(self.parameters), *flux.shape)
            if self._moves_labels.any():
                tangents = vmap(label_tangent)(self._A.T[self._moves_labels])
                columns[self._moves_labels] = self.observe(tangents, stages, nodes)
            if self._moves_stages.any():
                directions = self._stage_A.T[self._moves_stages]
                columns[self._moves_stages] += vmap(stage_tangent)(directions)
            return flux, columns.permute(1, 2, 0)

    def emulator_error(self, theta: Tensor) -> Tensor | None:
        """Return the rms error of the emulator at observed pixels, (n_pix,), near theta (n_free,).

        Its sample of errors (`emulators.error_model`) passes through the stages as the flux
        does, so that errors which the instrument averages out count for less.  None when
        the emulator brings no sample.
        """
        errors = self.emulator.errors
        if errors is None:
            return None
        with torch.no_grad():
            stages = self.stages(theta[None])
            labels = self.labels(theta[None])[0].cpu().numpy()
            weights = errors.weights(labels, self.emulator.labels).to(self.grid.device)
            sample = errors.errors[:, self._pixels].to(self.grid.device)
            observed = self.observe(sample[:, None], stages, self._nodes(stages))[:, 0]
            return torch.sqrt(weights @ observed.double() ** 2)

    def _nodes(self, stages: Tensor) -> int:
        """Return the quadrature that is exact for the fastest of these stars."""
        needed = nodes_for(float(stages.detach()[..., 1].abs().max()), self.log_step)
        return 32 * math.ceil(needed / 32)

    def _at_rest(self, labels: Tensor) -> Tensor:
        return self.emulator.flux(labels, self.grid)

    def observe(self, rest: Tensor, stages: Tensor, nodes: int) -> Tensor:
        """Return observed (..., n_spec, n_pix) of flux or tangents (..., n_spec, n_grid)."""
        rv, vsini, resolution, epsilon = stages.unbind(-1)
        rotated = rotate(rest, vsini, log_step=self.log_step, epsilon=epsilon, nodes=nodes)
        fine = refine(rotated, self.refinement)
        return self.spread(fine, log_shift(rv), sigma_of(resolution))
