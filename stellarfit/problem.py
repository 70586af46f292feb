"""One star's problem: its pixels, the model that explains them, and where to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import emulators
from emulators import Emulator
from emulators.labels import is_abundance
from stellarfit import optimize
from stellarfit.continuum import basis
from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument, instrument_for
from stellarfit.parameters import Parameters, make_parameters
from stellarfit.readers import read
from stellarfit.result import FitResult
from stellarfit.search import Start, search
from stellarfit.spectrum import Spectrum, from_specutils

DEFAULT_EMULATOR = "mgb-fgk"
#: how far (km/s) rv may move from its first guess
RV_MARGIN = 30.0
FEWEST_PIXELS = 20


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a fit and a sampler need to know of one star.

    Attributes
    ----------
    spectrum : Spectrum
        Its pixels that overlap the emulator, in the emulator's medium.
    model : ForwardModel
    data : optimize.Data
        One row; weights are 0 where a pixel is not used.
    starts : list of Start
        First guesses, the best first.
    instrument : Instrument
    provenance : dict
    """

    spectrum: Spectrum
    model: ForwardModel
    data: optimize.Data
    starts: list[Start]
    instrument: Instrument
    provenance: dict[str, Any]

    @property
    def used(self) -> NDArray[np.bool_]:
        """Pixels that enter, (n_pix,) bool."""
        return np.asarray(self.data.weight[0].cpu().numpy() > 0)

    def with_emulator_error(self, theta: NDArray[np.float64]) -> Problem:
        """Return the problem with the emulator's error near theta (n_free,) in the noise.

        Its square, times that of the continuum, adds to the variance of every pixel.  The
        problem itself is returned when the emulator brings no error model.
        """
        at = torch.as_tensor(theta, device=self.data.flux.device)
        error = self.model.emulator_error(at)
        if error is None:
            return self
        noise = torch.as_tensor(np.sqrt(self.spectrum.ivar), device=at.device)[None]
        noise = torch.where(self.data.weight > 0, noise, 0.0)
        with torch.no_grad():
            continuum = self.data.project(self.model(at[None]), torch.zeros(1, dtype=torch.long))
        weight = noise / torch.sqrt(1.0 + (noise * continuum.continuum * error) ** 2)
        median = float(error[self.data.weight[0] > 0].median())
        return replace(self, data=replace(self.data, weight=weight),
                       provenance={**self.provenance, "emulator_error": round(median, 6)})


def prepare(
    spectrum: Any, flux: Any = None, *, instrument: str | Instrument | None = None,
    resolution: float | None = None, emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, continuum: int = 3,
    start: FitResult | None = None, seed: int = 0, **spectrum_options: Any,
) -> Problem:
    """Set up the fit of one star; parameters as in :func:`fit`."""
    observed = as_spectrum(spectrum, flux, **spectrum_options)
    if not isinstance(emulator, Emulator):
        emulator = emulators.load(emulator)
    instrument = instrument_for(instrument, resolution)
    if fixed and "resolution" in fixed:
        instrument = replace(instrument, resolution=float(fixed["resolution"]))
    observed = overlap(observed, emulator)  # first: what is wrong with the data comes first
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=free, fixed=fixed, tied=tied,
        resolution=instrument.resolution,
    )
    ivar = np.where(observed.good, observed.ivar, 0.0)
    starts = [_start_of(start, parameters)] if start is not None else search(
        emulator, parameters, observed.wavelength, observed.flux, ivar,
        resolution=instrument.resolution, seed=seed,
    )
    rv, rotation = starts[0].rv, max(10.0, 1.5 * starts[0].vsini)
    parameters = parameters.with_limits("rv", rv - RV_MARGIN, rv + RV_MARGIN)
    model = ForwardModel(
        emulator, parameters, observed.wavelength, resolution=instrument.resolution,
        rv_range=(rv - RV_MARGIN - rotation, rv + RV_MARGIN + rotation),
    )
    weight = np.sqrt(np.where(model.covered, ivar, 0.0))
    n_good = np.count_nonzero(weight)
    if n_good < max(FEWEST_PIXELS, len(parameters) + continuum + 1):
        raise ValueError(
            f"only {n_good} usable pixels of '{observed.name or 'the spectrum'}' fall on "
            f"emulator '{emulator.name}': too few to fit {len(parameters)} parameters"
        )
    device = emulator.device
    terms = basis(torch.as_tensor(observed.wavelength, device=device), continuum,
                  emulator.wavelength_range)
    data = optimize.Data(torch.as_tensor(observed.flux, device=device)[None],
                         torch.as_tensor(weight, device=device)[None], terms)
    provenance = {
        "emulator": emulator.identity, "emulator_sha256": emulator.sha256,
        "instrument": str(instrument),
        "resolution": instrument.resolution, "continuum_degree": continuum,
        "fixed": dict(fixed or {}), "tied": dict(tied or {}), "seed": seed,
        "version": version("stellarfit"),
    }
    return Problem(observed, model, data, starts, instrument, provenance)


def as_spectrum(spectrum: Any, flux: Any = None, **options: Any) -> Spectrum:
    """Return a Spectrum from a path, ours or one of specutils, or wavelengths and fluxes."""
    if isinstance(spectrum, Spectrum):
        if flux is not None or options:
            raise ValueError("a Spectrum brings its own flux, medium and errors; give nothing else")
        return spectrum
    if isinstance(spectrum, (str, Path)):
        return read(spectrum, **options)
    if hasattr(spectrum, "spectral_axis"):
        return from_specutils(spectrum, **options)
    if flux is None:
        raise ValueError("wavelengths without fluxes: call fit(wavelength, flux, ...)")
    return Spectrum(spectrum, flux, **options)


def overlap(spectrum: Spectrum, emulator: Emulator) -> Spectrum:
    """Return the pixels that may show light from the emulator's range, in its medium.

    Raises
    ------
    ValueError
        When there are none.
    """
    spectrum = spectrum.to_medium(emulator.medium)
    low, high = emulator.wavelength_range
    first, last = spectrum.wavelength[[0, -1]]
    if first > high or last < low:
        raise ValueError(
            f"wavelengths run {first:.0f}-{last:.0f} Å, but emulator '{emulator.name}' covers "
            f"{low:.0f}-{high:.0f} Å: nothing to fit"
        )
    margin = 1.0 + 500.0 / SPEED_OF_LIGHT
    cut = spectrum.cut(low / margin, high * margin)
    if not cut.good.any():
        raise ValueError(
            f"all {len(cut)} pixels of '{spectrum.name or 'the spectrum'}' between {low:.0f} "
            f"and {high:.0f} Å, where emulator '{emulator.name}' lives, are masked: nothing to fit"
        )
    if (n_good := int(cut.good.sum())) < FEWEST_PIXELS:
        raise ValueError(
            f"only {n_good} usable pixels of '{spectrum.name or 'the spectrum'}' fall on emulator "
            f"'{emulator.name}' ({low:.0f}-{high:.0f} Å): too few to fit; at least "
            f"{FEWEST_PIXELS} are needed"
        )
    if not cut.flux[cut.good].any():
        raise ValueError(f"the flux is zero from {low:.0f} to {high:.0f} Å: nothing to fit")
    return cut


def _start_of(result: FitResult, parameters: Parameters) -> Start:
    """Return an earlier result as a first guess."""
    known = {**result.provenance.get("fixed", {}), **result.labels, **parameters.fixed_stages}
    for element in (n for n in result.label_names if is_abundance(n) and n != "fe_h"):
        known.setdefault(element[:-2] + "_fe", known[element] - known.get("fe_h", 0.0))
    if missing := [n for n in parameters.names if n not in known]:
        raise ValueError(f"start= has no value for {', '.join(missing)}")
    # At vsini = 0 the derivative vanishes: an optimiser that starts there never leaves.
    if "vsini" in parameters.names:
        known["vsini"] = max(known.get("vsini", 0.0), 0.5)
    theta = np.array([known[n] for n in parameters.names])
    return Start(theta, known.get("rv", 0.0), known.get("vsini", 0.0), np.inf)
