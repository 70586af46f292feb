"""A star with an evil name, samples of it, and a catalogue, quick to make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table

from emulators import Emulator
from stellarfit import FitResult, Posterior, fit
from stellarfit.parameters import make_parameters
from stellarfit.posterior.diagnostics import Diagnosis
from stellarfit.quality import Flag
from stellarfit.survey.catalogue import arrays_of, to_table
from stellarfit.survey.engine import Failure, Status
from tests.stellarfit.posterior.chains import OPTIONS, STAR

EVIL = "<script>window.bad=1</script>", '"><img src=x onerror=window.bad=2>'


@pytest.fixture(scope="session")
def result(lines: Emulator, observe) -> FitResult:
    """A fit of a star with thirty masked pixels and an evil name, from an evil file."""
    seen = observe(lines, STAR, snr=80.0, seed=1)
    mask = seen.mask.copy()
    mask[100:130] = True
    seen = replace_spectrum(seen, mask=mask, name=EVIL[0], meta={"file": EVIL[1]})
    return fit(seen, emulator=lines, **OPTIONS)


def replace_spectrum(spectrum, **changes):
    """Return the spectrum, checked anew, with other values."""
    from stellarfit import Spectrum

    fields = {"ivar": spectrum.ivar, "medium": spectrum.medium, **changes}
    return Spectrum(spectrum.wavelength, spectrum.flux, **fields)


@pytest.fixture(scope="session")
def posterior(result: FitResult) -> Posterior:
    """Samples of the fit's own Gaussian."""
    rng = np.random.default_rng(2)
    count = len(result.names)
    chain = rng.multivariate_normal(result.values, result.covariance, (2, 150, 4))
    diagnosis = Diagnosis(tau=np.ones(count), ess=np.full(count, 1200.0), rhat=np.ones(count),
                          acceptance=0.4, divergences=0, stuck=0, burn_in=0, reasons=())
    return Posterior(result, chain, np.zeros((2, 150, 4)), diagnosis,
                     np.tile(result.model, (3, 1)))


@pytest.fixture(scope="session")
def catalogue(lines: Emulator, result: FitResult) -> Table:
    """Forty rows: a star without a fit, two of evil names, one flagged as bad, clean ones."""
    parameters = make_parameters(
        lines.labels, lines.domain, **{k: v for k, v in OPTIONS.items() if k != "resolution"})
    rng = np.random.default_rng(5)
    outcomes = [replace(
        result, flags=0, values=result.values + rng.normal(0.0, [200.0, 0.2]),
        spectra=(replace_spectrum(result.spectrum, name=f"star {i}"),)) for i in range(40)]
    outcomes[3] = replace(outcomes[3], flags=int(Flag.NOT_CONVERGED))
    outcomes[7:9] = [replace(o, spectra=(replace_spectrum(result.spectrum, name=n),))
                     for o, n in zip(outcomes[7:9], EVIL, strict=True)]
    outcomes[12] = Failure(Status.UNUSABLE, f"no pixels in {EVIL[0]}", "star 12")
    files = [f"spectra/s{i:02d}.fits" for i in range(40)]
    files[8] = EVIL[1]
    arrays = {"index": np.arange(40), "file": np.array(files), "star": np.zeros(40, dtype=int)}
    return to_table({**arrays, **arrays_of(outcomes, parameters)}, parameters,
                    {"emulator": "lines", EVIL[0]: EVIL[1]})
