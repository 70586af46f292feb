"""The forward model: the emulator and the observing stages, composed.

labels -> flux at the training pixels -> rotation and macroturbulence -> and in each arm:
interpolation, where the instrument resolves more than they sample -> Doppler shift,
line-spread function and pixels.  The continuum is not here: it is linear and solved for
(`continuum`).  Every stage is differentiable and works on a batch of stars that share
observed pixels.

The rest-frame grid is that of the training pixels where they are uniform in ln(wavelength):
there alone was the emulator held to the synthesis.  A Gaussian line-spread function of 0.7
steps or more is integrated by its sum over the grid to 1e-4 of what varies between
neighbouring points (Poisson summation: 2 exp(-2 pi^2 0.7^2)); for a narrower one the steps
are divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp, vmap

from emulators import Emulator
from stellarfit import macroturbulence, rotation
from stellarfit.arm import Arm
from stellarfit.doppler import SPEED_OF_LIGHT, log_shift
from stellarfit.interpolation import EDGE, filtered, frequencies, refine
from stellarfit.lsf import SIGMA_PER_FWHM, LineSpread, sigma_of
from stellarfit.parameters import RESOLUTION_MARGIN, SHARED, Parameters

SMALLEST_SIGMA = 0.7  # of the line-spread function, in steps of the rest-frame grid
LARGEST_REFINEMENT = 4
#: the same for a Gauss-Hermite profile, whose transform reaches further
SMALLEST_SIGMA_HERMITE = 1.0
#: of the rest-frame grid, where nothing but a pixel's edges smooth the sum over it
STEPS_PER_PIXEL = 60
#: an instrument must be less resolving than an emulator's own spectra by this factor
SHARPEST = 0.95
#: spectra at rest that are kept
REMEMBERED = 256
#: room (km/s) for rotation around observed pixels, beyond the range of velocities
ROTATION_MARGIN = 300.0


def refinement_for(emulator: Emulator, resolution: float, *, gaussian: bool = True) -> int:
    """Return into how many steps each training pixel must be divided at this resolution."""
    smallest = SMALLEST_SIGMA if gaussian else SMALLEST_SIGMA_HERMITE
    needed = smallest * emulator.log_step * resolution / SIGMA_PER_FWHM
    return min(LARGEST_REFINEMENT, max(1, math.ceil(needed - 1e-6)))


def _refinement_for_pixels(arm: Arm, log_step: float) -> int:
    """Return the same where a matrix brings the profile and only pixels are integrated over."""
    pixel = float(np.diff(np.log(arm.wavelength)).min())
    return min(LARGEST_REFINEMENT, max(1, math.ceil(STEPS_PER_PIXEL * log_step / pixel)))


def _missing_resolution(resolution: float, emulator: Emulator) -> float:
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


def _tangent(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function along a direction."""
    return torch.as_tensor(jvp(function, (at,), (direction,))[1])


def _keys(labels: Tensor) -> list[bytes]:
    return [row.tobytes() for row in labels.detach().cpu().numpy()]


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
        needed = _missing_resolution(self.largest, emulator)
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

    def __call__(self, broadened: Tensor, rv: Tensor, resolution: Tensor) -> Tensor:
        """Return flux (..., n_spec, n_pix) of the star at rest (..., n_spec, n_grid)."""
        fine = refine(broadened, self.refinement)
        if self.arm.matrix is not None:
            # Edges as soft as the sum over the grid needs them, which is next to nothing.
            narrow = torch.full_like(resolution, SMALLEST_SIGMA * self.spread.log_step)
            return self.arm.matrix.apply(self.spread(fine, log_shift(rv), narrow))
        sigma = sigma_of(resolution)
        if self.arm.instrument.table:
            sigma = sigma.unsqueeze(-1) / self.relative
        # The emulator's spectra are as broad as this already.
        sigma = torch.sqrt(sigma**2 - self._own**2) if self._own else sigma
        return self.spread(fine, log_shift(rv), sigma)

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
        self._moves_stages = (self._stage_A != 0).any(0)
        vmac = SHARED.index("vmac")
        self._scale = tensor(parameters.scale)
        #: per star, where its derivatives at rest were taken, and they
        self._derivatives: dict[int, tuple[Tensor, Tensor]] = {}
        self._fluxes: dict[bytes, Tensor] = {}
        self._has_vmac = bool(parameters.stage_A[vmac].any() or parameters.stage_b[vmac])

    @property
    def refinement(self) -> int:
        """Into how many steps the finest camera divides a training pixel."""
        return max(camera.refinement for camera in self.cameras)

    def _settle_grid(self, rv_range: tuple[float, float], resolution: float) -> None:
        """Cover what the observed pixels need, in whole steps from the first training pixel."""
        log_low, log_high = self._log_range
        shifts = np.arctanh(np.array(rv_range) / SPEED_OF_LIGHT)
        margin = 8.0 * SIGMA_PER_FWHM / resolution + ROTATION_MARGIN / SPEED_OF_LIGHT
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
        stages = self.stages(theta)
        return self.observe(self._at_rest(self.labels(theta)), stages, self._nodes(stages))

    def flux(self, theta: Tensor) -> Tensor:
        """Return what a call returns, without gradients; spectra asked for lately are remembered.

        A fit asks for a step's chi-square, then for its derivatives, then how to weigh it.
        """
        with torch.no_grad():
            stages = self.stages(theta)
            return self.observe(self._recalled(self.labels(theta)), stages, self._nodes(stages))

    def jacobian(
        self, theta: Tensor, *, stars: Sequence[int] = (), reach: Sequence[float] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the flux (n_spec, n_pix) and its derivatives (n_spec, n_pix, n_free).

        Forward-mode, one tangent per free parameter.  Only those that move a label pass
        through the emulator, which is nearly all of the cost, and the stages after it are
        linear in the flux: they treat its tangents as they treat the flux.

        Parameters
        ----------
        theta : (n_spec, n_free)
        stars : sequence of int, optional
            Their numbers, under which the emulator's part is remembered.
        reach : sequence of float, optional
            For each star: that part may be what it was when last taken, unless one of the
            labels' parameters has moved further than this since, in typical sizes.
        """
        with torch.no_grad():
            stages = self.stages(theta)
            nodes = self._nodes(stages)
            rest, tangents = self._rest_and_tangents(theta, stars, reach)
            flux = self.observe(rest, stages, nodes)
            columns = flux.new_zeros(len(self.parameters), *flux.shape)

            def stage_tangent(direction: Tensor) -> Tensor:
                def observed(stages: Tensor) -> Tensor:
                    return self.observe(rest, stages, nodes)

                return _tangent(observed, stages, direction.expand_as(stages))

            if len(tangents):
                columns[self._moves_labels] = self.observe(tangents, stages, nodes)
            if self._moves_stages.any():
                directions = self._stage_A.T[self._moves_stages]
                columns[self._moves_stages] += vmap(stage_tangent)(directions)
            return flux, columns.permute(1, 2, 0)

    def _rest_and_tangents(
        self, theta: Tensor, stars: Sequence[int], reach: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Return flux (n_spec, n_grid) and derivatives (n_moving, n_spec, n_grid) at rest."""
        labels, places = self.labels(theta), (theta / self._scale)[:, self._moves_labels]
        directions = self._A.T[self._moves_labels]
        if not len(directions):
            return self._recalled(labels), labels.new_zeros(0, len(labels), len(self.grid))
        known = {i: self._derivatives[n] for i, n in enumerate(stars) if n in self._derivatives}
        far = [i for i, place in enumerate(places) if i not in known
               or not float((known[i][0] - place).abs().max()) <= reach[i]]
        if far:
            flux, tangents = self.emulator.flux_and_tangents(labels[far], directions, self.grid)
            self._remember(dict(zip(_keys(labels[far]), flux, strict=True)))
            known.update({i: (places[i], t.clone())
                          for i, t in zip(far, tangents.unbind(1), strict=True)})
        self._derivatives.update({n: known[i] for i, n in enumerate(stars)})
        return self._recalled(labels), torch.stack([known[i][1] for i in range(len(places))], 1)

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
            stages = self.stages(theta[None])
            return self.observe(rest[:, None], stages, self._nodes(stages))[:, 0]

    def _nodes(self, stages: Tensor) -> int:
        """Return the quadrature that is exact for the fastest of these stars."""
        fastest = float(stages.detach()[..., SHARED.index("vsini")].abs().max())
        return 32 * math.ceil(rotation.nodes_for(fastest, self.log_step) / 32)

    def _at_rest(self, labels: Tensor) -> Tensor:
        return self.emulator.flux(labels, self.grid)

    def _recalled(self, labels: Tensor) -> Tensor:
        """Return flux (n_spec, n_grid) at rest, from memory where it is known."""
        keys = _keys(labels)
        found = {k: self._fluxes[k] for k in keys if k in self._fluxes}
        new = [i for i, k in enumerate(keys) if k not in found]
        if new:
            fluxes = self._at_rest(labels[new])
            found.update(zip([keys[i] for i in new], fluxes, strict=True))
            self._remember(found)
        return torch.stack([found[k] for k in keys])

    def _remember(self, fluxes: dict[bytes, Tensor]) -> None:
        """Keep fluxes (n_grid,) by labels, and forget the oldest of too many."""
        self._fluxes.update({k: f.clone() for k, f in fluxes.items() if k not in self._fluxes})
        for key in list(self._fluxes)[:max(0, len(self._fluxes) - REMEMBERED)]:
            del self._fluxes[key]

    def observe(self, rest: Tensor, stages: Tensor, nodes: int) -> Tensor:
        """Return observed (..., n_spec, n_pix) of flux or tangents (..., n_spec, n_grid)."""
        vsini, vmac, epsilon = stages[..., :len(SHARED)].unbind(-1)
        velocities, resolutions = stages[..., len(SHARED):].chunk(2, dim=-1)
        frequency = frequencies(rest.shape[-1], self.log_step, rest.device) / SPEED_OF_LIGHT
        kernel = rotation.transform(frequency * vsini.unsqueeze(-1), epsilon.unsqueeze(-1),
                                    nodes=nodes)
        if self._has_vmac:
            kernel = kernel * macroturbulence.transform(frequency * vmac.unsqueeze(-1))
        broadened = filtered(rest, kernel)
        arms = zip(self.cameras, velocities.unbind(-1), resolutions.unbind(-1), strict=True)
        return torch.cat([camera(broadened, rv, r) for camera, rv, r in arms], dim=-1)
