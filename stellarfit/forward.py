"""The forward model: the emulator and the observing stages, composed.

labels -> flux at the training pixels -> rotation and macroturbulence -> and in each arm:
interpolation, where the instrument resolves more than they sample -> Doppler shift,
line-spread function and pixels.  The continuum is not here: it is linear and solved for
(`continuum`).  Every stage is differentiable and works on a batch of stars that share
observed pixels.

The rest-frame grid is that of the training pixels where they are uniform in ln(wavelength):
there alone was the emulator held to the synthesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp

from emulators import Emulator
from stellarfit import macroturbulence, rotation
from stellarfit.arm import Arm
from stellarfit.at_rest import AtRest, keys_of, remember
from stellarfit.camera import Camera
from stellarfit.constants import SIGMA_PER_FWHM, SPEED_OF_LIGHT
from stellarfit.doppler import log_shift_slope
from stellarfit.interpolation import filtered, frequencies, sampled, series
from stellarfit.lsf import Product, gathered, multiplied
from stellarfit.parameters import RESOLUTION_MARGIN, SHARED, Parameters

#: room (km/s) for rotation around observed pixels, beyond the range of velocities
ROTATION_MARGIN = 300.0
#: bytes of kernels and weights, and of Jacobians, that are kept
OPTICS, JACOBIANS = 2**27, 2**25
#: a macroturbulent profile has ended by so many times its velocity
VMAC_REACH = 4.0


def _tangent(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function along a direction."""
    return torch.as_tensor(jvp(function, (at,), (direction.expand_as(at),))[1])


class ForwardModel:
    """Free parameters -> normalised flux at observed pixels.

    Parameters
    ----------
    emulator : Emulator
    parameters : Parameters
        Made for these arms.
    arms : sequence of Arm
        Their pixels, one arm after the other, are the model's.
    rv_range : (float, float)
        Velocities, km/s, at which the model must hold.
    """

    def __init__(
        self, emulator: Emulator, parameters: Parameters, arms: Sequence[Arm], *,
        rv_range: tuple[float, float] = (-50.0, 50.0),
    ) -> None:
        self.emulator, self.parameters, self.arms = emulator, parameters, tuple(arms)
        self.log_step = emulator.log_step
        low, high = np.log(emulator.wavelength_range)
        self._log_range = float(low), float(high)
        rows = range(-len(self.arms), 0)
        resolutions = [float(parameters.stage_b[i]) or arm.instrument.resolution
                       for i, arm in zip(rows, self.arms, strict=True)]
        free = [bool(parameters.stage_A[i].any()) for i in rows]
        lowest = min(float(arm.instrument.scaled_to(r).resolution_at(arm.wavelength).min())
                     for r, arm in zip(resolutions, self.arms, strict=True))
        self._settle_grid(rv_range, lowest / (RESOLUTION_MARGIN if any(free) else 1.0))
        self.cameras = [
            Camera(arm, emulator, log_start=self.log_start, n_grid=len(self.grid),
                   resolution=r, free=f)
            for arm, r, f in zip(self.arms, resolutions, free, strict=True)
        ]

        def tensor(x: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(x, dtype=torch.float64, device=emulator.device)

        self._A, self._b = tensor(parameters.A), tensor(parameters.b)
        self._stage_A, self._stage_b = tensor(parameters.stage_A), tensor(parameters.stage_b)
        self._moves_labels = (self._A != 0).any(0)
        self._scale = tensor(parameters.scale)
        ways = (self._A * self._scale).T[self._moves_labels]
        self.at_rest = AtRest(emulator, self.grid, ways)
        self._fluxes: dict[bytes, Tensor] = {}
        self._jacobians: dict[bytes, Tensor] = {}
        self._known_optics: dict[bytes, tuple[Tensor, ...]] = {}
        vmac = SHARED.index("vmac")
        self._has_vmac = bool(parameters.stage_A[vmac].any() or parameters.stage_b[vmac])

    @property
    def refinement(self) -> int:
        """Into how many steps the finest camera divides a training pixel."""
        return max(camera.refinement for camera in self.cameras)

    def _settle_grid(self, rv_range: tuple[float, float], resolution: float) -> None:
        """Cover what the observed pixels need, in whole steps from the first training pixel."""
        log_low, log_high = self._log_range
        shifts = np.arctanh(np.array(rv_range) / SPEED_OF_LIGHT)
        margin = 8.0 * SIGMA_PER_FWHM / resolution + self._largest_broadening() / SPEED_OF_LIGHT
        need_low = np.log(min(a.wavelength[0] for a in self.arms)) - shifts.max() - margin
        need_high = np.log(max(a.wavelength[-1] for a in self.arms)) - shifts.min() + margin
        last = math.floor((log_high - log_low) / self.log_step + 1e-3)
        first = min(max(0, math.floor((need_low - log_low) / self.log_step)), last - 1)
        stop = max(min(last, math.ceil((need_high - log_low) / self.log_step)), first + 1)
        self.log_start = log_low + first * self.log_step
        self.pixels = slice(first, stop + 1)
        grid = np.exp(self.log_start + self.log_step * np.arange(stop - first + 1))
        # Rounding must not carry the ends beyond the emulator's range.
        grid = np.clip(grid, *self.emulator.wavelength_range)
        self.grid = torch.as_tensor(grid, device=self.emulator.device)

    def _largest_broadening(self) -> float:
        """Return how far (km/s) rotation and macroturbulence may carry light."""
        vsini, vmac = (SHARED.index(n) for n in ("vsini", "vmac"))
        if self.parameters.stage_A[[vsini, vmac]].any():
            return ROTATION_MARGIN
        fixed = self.parameters.stage_b
        return min(ROTATION_MARGIN, float(fixed[vsini] + VMAC_REACH * fixed[vmac]))

    def covers(self, rv_range: tuple[float, float]) -> NDArray[np.bool_]:
        """Return the pixels, (n_pix,) bool, that see the emulator's range at all these velocities.

        The others are to be ignored.
        """
        return np.concatenate([c.covers(*self._log_range, rv_range) for c in self.cameras])

    def labels(self, theta: Tensor) -> Tensor:
        """Return the emulator's labels (n_spec, n_label) of theta (n_spec, n_free), float64."""
        return theta @ self._A.T + self._b

    def stages(self, theta: Tensor) -> Tensor:
        """Return the stage parameters (n_spec, n_stage) of theta, in the order of their names."""
        return theta @ self._stage_A.T + self._stage_b

    def __call__(self, theta: Tensor) -> Tensor:
        """Return normalised flux (n_spec, n_pix) of theta (n_spec, n_free) float64."""
        rest = self.emulator.flux(self.labels(theta), self.grid)
        return self.observe(rest, self.stages(theta))

    def evaluate(self, theta: Tensor) -> Tensor:
        """Return what a call returns, without gradients and without keeping it."""
        with torch.no_grad():
            rest = self.emulator.flux(self.labels(theta), self.grid)
            return self.observe(rest, self.stages(theta), multiplied)

    def flux(self, theta: Tensor) -> Tensor:
        """Return what a call returns, without gradients, from memory where it is known."""
        keys = keys_of(theta)
        new = [i for i, k in enumerate(keys) if k not in self._fluxes]
        found = {k: self._fluxes[k] for k in keys if k in self._fluxes}
        if new:
            with torch.no_grad():
                rest = self.at_rest.flux(self.labels(theta[new]))
                kernel, weights = self._optics(self.stages(theta[new]), rest.shape[-1], rest.dtype)
                flux = self._seen(filtered(rest, kernel), weights)
            found.update(zip([keys[i] for i in new], flux, strict=True))
            remember(self._fluxes, found)
        return torch.stack([found[k] for k in keys])

    def jacobian(
        self, theta: Tensor, *, stars: Sequence[int] = (), reach: Sequence[float] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the flux (n_spec, n_pix) and its derivatives (n_spec, n_pix, n_free).

        Only parameters that move a label pass through the emulator, which is nearly all of the
        cost.  The stages after it are linear in the flux: they treat its tangents as they
        treat the flux, and are differentiated alone.

        Parameters
        ----------
        theta : (n_spec, n_free)
        stars : sequence of int, optional
            Their numbers, under which the emulator's part is remembered.
        reach : sequence of float, optional
            For each star: that part may be what it was when last taken, mended by what has
            been seen since, unless one of the labels' parameters has moved further than
            this, in typical sizes.
        """
        if not self.at_rest.cheap:
            return self._jacobian(theta, stars, reach)
        # A fit asks again where only the noise has changed.
        keys = keys_of(theta)
        found = {k: self._jacobians[k] for k in keys if k in self._jacobians}
        new = [i for i, k in enumerate(keys) if k not in found]
        if new:
            flux, columns = self._jacobian(theta[new], (), ())
            both = torch.cat([flux.unsqueeze(-1), columns], -1)
            found.update(zip([keys[i] for i in new], both, strict=True))
            remember(self._jacobians, found, most=max(1, JACOBIANS // both[0].nbytes))
        rows = torch.stack([found[k] for k in keys])
        return rows[..., 0], rows[..., 1:]

    def _jacobian(
        self, theta: Tensor, stars: Sequence[int], reach: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Return what :meth:`jacobian` does, computed."""
        with torch.no_grad():
            stages, labels = self.stages(theta), self.labels(theta)
            places = (theta / self._scale)[:, self._moves_labels]
            tangents = self.at_rest.derivatives(labels, places, stars, reach)
            rest = self.at_rest.flux(labels)
            n_grid = rest.shape[-1]
            kernel, weights = self._optics(stages, n_grid, rest.dtype)
            # One transform and one product for all that is linear in the star's spectrum.
            waves = series(torch.cat([rest[None], tangents]))
            shared = [k for k, d in enumerate(self._stage_A.T) if d[:len(SHARED)].any()]
            slope = 1j * frequencies(n_grid, self.log_step, stages.device).to(rest.dtype) * kernel
            factors = [slope, *(self._kernel_along(stages, self._stage_A[:, k], n_grid, rest.dtype)
                                for k in shared)]
            rows = sampled(torch.cat([waves * kernel, *(waves[:1] * f for f in factors)]), n_grid)
            seen = self._seen(rows, weights)
            columns = seen.new_zeros(len(self.parameters), *seen.shape[1:])
            count = 1 + len(tangents)
            columns[self._moves_labels] = (
                seen[1:count] / self._scale[self._moves_labels, None, None].to(seen.dtype))
            columns[shared] += seen[count + 1:]
            for column, direction in zip(columns, self._stage_A.T, strict=True):
                self._add_moved_arms(column, seen[count], rows[0], stages, direction, weights)
            return seen[0], columns.permute(1, 2, 0)

    def through(self, rest: Tensor, theta: Tensor) -> Tensor:
        """Return spectra, or errors, at the training pixels as the instrument sees them.

        Parameters
        ----------
        rest : (n_sample, n_grid)
            At ``self.grid``, the training pixels ``self.pixels`` of the emulator.
        theta : (n_free,)
            Whose stage parameters count.

        Returns
        -------
        (n_sample, n_pix)
        """
        with torch.no_grad():
            return self.observe(rest[:, None], self.stages(theta[None]), multiplied)[:, 0]

    def observe(self, rest: Tensor, stages: Tensor, product: Product = gathered) -> Tensor:
        """Return observed (..., n_spec, n_pix) of flux (..., n_spec, n_grid).

        Differentiable, unless the product is `stellarfit.lsf.multiplied`, which is faster.
        """
        return self._seen(self._broadened(rest, stages), self._weights(stages, rest.dtype),
                          product)

    def _broadened(self, rest: Tensor, stages: Tensor) -> Tensor:
        """Return flux (..., n_spec, n_grid) with the star's rotation and macroturbulence."""
        return filtered(rest, self._kernel(stages, rest.shape[-1], rest.dtype))

    def _kernel(self, stages: Tensor, n_grid: int, dtype: torch.dtype) -> Tensor:
        """Return the transform of rotation and macroturbulence, (n_spec, n_frequency).

        In the precision of the flux.
        """
        vsini, vmac, epsilon = stages[..., :len(SHARED)].unsqueeze(-2).unbind(-1)
        frequency = frequencies(n_grid, self.log_step, stages.device) / SPEED_OF_LIGHT
        kernel = rotation.transform((frequency * vsini).to(dtype), epsilon.to(dtype))
        if self._has_vmac:
            kernel = kernel * macroturbulence.transform((frequency * vmac).to(dtype))
        return torch.as_tensor(kernel)

    def _kernel_along(
        self, stages: Tensor, direction: Tensor, n_grid: int, dtype: torch.dtype
    ) -> Tensor:
        """Return its derivative along a direction of the stages' parameters."""
        turned, *others = direction[:len(SHARED)]
        if any(others) or self._has_vmac:
            return _tangent(lambda s: self._kernel(s, n_grid, dtype), stages, direction)
        vsini, _, epsilon = stages[..., :len(SHARED)].unsqueeze(-2).unbind(-1)
        frequency = frequencies(n_grid, self.log_step, stages.device) / SPEED_OF_LIGHT
        return torch.as_tensor(
            (turned * frequency).to(dtype)
            * rotation.transform_and_slope((frequency * vsini).to(dtype), epsilon.to(dtype))[1])

    def _optics(
        self, stages: Tensor, n_grid: int, dtype: torch.dtype
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return :meth:`_kernel` and :meth:`_weights`, remembered for whoever asks next.

        A fit asks for the same stars twice: for a step's chi-square, then for its derivatives.
        """
        keys = keys_of(stages)
        found = {k: self._known_optics[k] for k in keys if k in self._known_optics}
        new = [i for i, k in enumerate(keys) if k not in found]
        if new:
            some = stages[new]
            parts = [self._kernel(some, n_grid, dtype),
                     *(x for pair in self._weights(some, dtype) for x in pair)]
            found.update(zip([keys[i] for i in new], zip(*parts, strict=True), strict=True))
            size = sum(x[0].nbytes for x in parts)
            self._known_optics.update(found)
            for key in list(self._known_optics)[:max(0, len(self._known_optics) - OPTICS // size)]:
                del self._known_optics[key]
        kernel, *rows = (torch.stack(x) for x in zip(*(found[k] for k in keys), strict=True))
        return kernel, list(zip(rows[::2], rows[1::2], strict=True))

    def _weights(self, stages: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return how each arm's pixels sum up the grid's points."""
        return [camera.weights(*place, dtype) for camera, place in zip(
            self.cameras, self._places(stages), strict=True)]

    def _places(self, stages: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return velocity and resolution (..., ) of each arm."""
        velocities, resolutions = stages[..., len(SHARED):].chunk(2, dim=-1)
        return list(zip(velocities.unbind(-1), resolutions.unbind(-1), strict=True))

    def _add_moved_arms(
        self, column: Tensor, slope: Tensor, broadened: Tensor, stages: Tensor, direction: Tensor,
        weights: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """Add to a column (n_spec, n_pix) what velocities and resolutions along a direction do.

        Where the star's spectrum (n_spec, n_grid) is `broadened`, and its `slope` (n_spec, n_pix)
        per ln(wavelength) as seen.
        """
        sizes = [len(arm) for arm in self.arms]
        each = zip(torch.split(column, sizes, -1), torch.split(slope, sizes, -1), self.cameras,
                   self._places(stages), self._places(direction), weights, strict=True)
        for part, own_slope, camera, (rv, resolution), (moves, sharpens), (index, _) in each:
            if moves:
                part -= (moves * log_shift_slope(rv)).to(part.dtype)[:, None] * own_slope
            if sharpens:
                along = camera.weights_along(
                    rv, resolution, sharpens.expand_as(resolution), broadened.dtype)
                part += camera(broadened, index, along, multiplied)

    def _seen(
        self, broadened: Tensor, weights: Sequence[tuple[Tensor, Tensor]],
        product: Product = multiplied,
    ) -> Tensor:
        """Return what all arms see, (..., n_spec, n_pix), of a star or its derivatives."""
        return torch.cat([camera(broadened, *w, product)
                          for camera, w in zip(self.cameras, weights, strict=True)], dim=-1)
