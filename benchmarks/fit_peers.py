"""Stars per second and label errors against other fitters: ``python -m benchmarks.fit_peers``.

Mock stars of ``mgb-fgk``, R = 20,000, S/N 100, two and a half pixels per FWHM, normalised; all
fitters but PySME have that emulator as their model and the same chi-square.

- *ten parameters*: eight labels, rv and vsini, by our Levenberg-Marquardt one by one and in a
  batch, by our Adam, and by scipy's ``curve_fit`` with finite differences, tolerance and start in
  the middle as The Payne has them.
- *six parameters*: Teff, log g, [Fe/H], [alpha/Fe], rv and vsini, the only labels that rvspecfit
  0.9.0 can take.  Its templates are our emulator's, asked for across a pipe, already at the
  instrument's resolution, as it wants them, on the training pixels; there its rotation, which takes
  them as piecewise linear, broadens a little too much.  It starts in the middle too.
- *three parameters*, one star: Teff, log g and [Fe/H] by PySME's own solver, which knows the rest.

Our fits and rvspecfit's look for the velocity within 100 km/s; ``curve_fit`` starts within 5 km/s
of it.  Errors are in units of what the Fisher matrix at the truth expects: bias (median) and robust
scatter.  All take turns, star by star, after one that is not counted; Adam, which takes a minute,
fits every eighth star.  ``python -m benchmarks.peers.install`` first; who is not installed is left
out.  Writes
``benchmarks/results/fit-peers.json``; ``--quick`` writes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit

import emulators
import stellarfit
from benchmarks.forward_speed import SCRIPTS, quartiles
from benchmarks.peers.install import FOLDER, python_of
from stellarfit.arm import Arm
from stellarfit.constants import SIGMA_PER_FWHM
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.interpolation import filtered, frequencies
from stellarfit.parameters import make_parameters
from stellarfit.priors import Uniform

Array = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "fit-peers.json"
RESOLUTION, PER_FWHM, SNR = 20_000.0, 2.5, 100.0
#: between which the truth is drawn; all start in the middle
DRAWN = {"teff": (4800.0, 6400.0), "logg": (3.6, 4.8), "vmic": (0.8, 1.8), "fe_h": (-0.8, 0.3),
         "mg_fe": (-0.1, 0.4), "ca_fe": (-0.1, 0.4), "ti_fe": (-0.1, 0.4), "cr_fe": (-0.2, 0.2),
         "rv": (-5.0, 5.0), "vsini": (2.0, 15.0)}
#: limits that replace those of the model
LIMITS = {"rv": (-100.0, 100.0), "vsini": (0.0, 60.0)}
#: of a pixel, in FWHM
PIXEL_SIGMA = 1.0 / PER_FWHM / np.sqrt(12.0)
SIX = ("teff", "logg", "fe_h", "mg_fe", "rv", "vsini")
THEIR_NAMES = {"teff": "teff", "logg": "logg", "fe_h": "feh", "mg_fe": "alpha", "rv": "vel",
               "vsini": "vsini"}
OPTIONS: dict[str, Any] = {
    "resolution": RESOLUTION, "continuum": "normalised", "emulator_error": False, "jitter": False,
    "robust": False}
#: of The Payne's fit; and the step of its differences, in widths of a label's range: the network
#: is in float32, where the default would find noise
TOLERANCE, STEP = 5e-4, 1e-3
LM, BATCH, ADAM, CURVE_FIT, RVS = "LM", "LM, batch", "Adam", "curve_fit", "rvspecfit"
#: of how many stars one is fitted, where not all are
EVERY = {ADAM: 8}


class Mock:
    """Stars of known labels, and the parameters that are fitted.

    Attributes
    ----------
    model : ForwardModel
    truth, expected : (n_star, n_free)
        And the errors of the Fisher matrix at the truth.
    spectra : list of Spectrum
    options : dict
        Of our fits.
    """

    def __init__(
        self, emulator: emulators.Emulator, free: Sequence[str], count: int, *,
        tied: dict[str, str] | None = None, fixed: dict[str, float] | None = None,
    ) -> None:
        low, high = emulator.wavelength_range
        wavelength = np.exp(np.arange(np.log(low + 2.0), np.log(high - 2.0),
                                      1.0 / (PER_FWHM * RESOLUTION)))
        known: dict[str, Any] = {"free": free, "tied": tied, "fixed": fixed}
        parameters = make_parameters(emulator.labels, emulator.domain, resolution=RESOLUTION,
                                     **known)
        self.model = ForwardModel(emulator, parameters,
                                  [Arm(wavelength, Instrument("mock", RESOLUTION))])
        rng = np.random.default_rng(len(free))
        self.truth = rng.uniform(*np.array([DRAWN[n] for n in free]).T, size=(count, len(free)))
        flux, jacobian = (x.double().numpy() for x in self.model.jacobian(tensor(self.truth)))
        information = SNR**2 * np.einsum("spi,spj->sij", jacobian, jacobian)
        self.expected = np.sqrt(np.diagonal(np.linalg.inv(information), axis1=1, axis2=2))
        self.spectra = [stellarfit.Spectrum(
            wavelength, f + rng.standard_normal(len(f)) / SNR, ivar=np.full(len(f), SNR**2),
            medium=emulator.medium) for f in flux]
        self.options = {**OPTIONS, **known, "emulator": emulator}
        if "rv" in free:
            self.options["priors"] = {"rv": Uniform(*LIMITS["rv"])}

    @property
    def names(self) -> tuple[str, ...]:
        """The free parameters."""
        return self.model.parameters.names

    @property
    def limits(self) -> Array:
        """Smallest and largest value of each parameter, (2, n_free)."""
        return np.array([LIMITS.get(n, pair) for n, pair in zip(
            self.names, np.transpose(self.model.parameters.box), strict=True)]).T

    @property
    def middle(self) -> Array:
        """Where fits begin that do not search, (n_free,)."""
        return np.array([np.mean(DRAWN[n]) for n in self.names])


def tensor(x: Array) -> torch.Tensor:
    """Return an array as a tensor."""
    return torch.as_tensor(x, dtype=torch.float64)


def ours(mock: Mock, k: int, method: str = "lm") -> Array:
    """Fit star k alone."""
    return stellarfit.fit(mock.spectra[k], method=method, **mock.options).values


def by_curve_fit(mock: Mock, k: int) -> Array:
    """Fit star k by scipy, one spectrum at a time.

    Parameters run from 0.5 to 1.5, where a step relative to them is one in their range.
    """
    low, high = mock.limits
    spectrum, width, start = mock.spectra[k], high - low, mock.middle

    def flux(_: Any, *x: float) -> Array:
        theta = low + (np.array(x) - 0.5) * width
        return mock.model.evaluate(tensor(theta)[None])[0].double().numpy()

    found, _ = curve_fit(
        flux, spectrum.wavelength, spectrum.flux, p0=0.5 + (start - low) / width,
        sigma=spectrum.ivar ** -0.5, absolute_sigma=True, bounds=(0.5, 1.5), method="trf",
        ftol=TOLERANCE, xtol=TOLERANCE, diff_step=STEP)
    return np.asarray(low + (found - 0.5) * width)


class Rvspecfit:
    """rvspecfit in a process of its own, which asks for templates while it fits."""

    def __init__(self, mock: Mock, folder: Path) -> None:
        self.mock, emulator = mock, mock.model.emulator
        count = int(np.log(emulator.pixels[-1] / emulator.pixels[0]) / emulator.log_step) + 1
        wavelength = np.exp(np.log(emulator.pixels[0]) + emulator.log_step * np.arange(count))
        self.grid = tensor(wavelength.clip(*emulator.wavelength_range))
        f = frequencies(count, emulator.log_step)
        # What the instrument does, Gaussian and pixel, at rest and before rotation.
        self.profile = (torch.exp(-0.5 * (f * SIGMA_PER_FWHM / RESOLUTION) ** 2)
                        * torch.sinc(f / (2.0 * np.pi * PER_FWHM * RESOLUTION)))
        self.labels = [i for i, n in enumerate(mock.names) if n not in LIMITS]
        self.names = [THEIR_NAMES[n] for n in mock.names]
        self.process = subprocess.Popen([python_of(RVS, folder), SCRIPTS / "rvs.py"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        low, high = mock.limits[:, self.labels]
        self._write(json.dumps({
            "lam": wavelength.tolist(), "names": [self.names[i] for i in self.labels],
            "low": low.tolist(), "high": high.tolist(), "min_vel": LIMITS["rv"][0],
            "max_vel": LIMITS["rv"][1]}).encode() + b"\n")

    def __call__(self, mock: Mock, k: int) -> Array:
        """Fit star k."""
        star = mock.spectra[k]
        start = {n: v for n, v in zip(self.names, mock.middle.tolist(), strict=True) if n != "vel"}
        self._write(json.dumps({
            "lam": star.wavelength.tolist(), "spec": star.flux.tolist(),
            "espec": (star.ivar ** -0.5).tolist(), "start": start}).encode() + b"\n")
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            said = json.loads(line)
            if "found" in said:
                return np.array([said["found"][n] for n in self.names])
            self._write(self.template(said["labels"]).tobytes())
        raise click.ClickException("rvspecfit ended before it answered; what it said is above")

    def template(self, labels: list[float]) -> Array:
        """Return the emulator's spectrum as the instrument sees it, (n_grid,)."""
        theta = self.mock.middle
        theta[self.labels] = labels
        with torch.inference_mode():
            flux = self.mock.model.emulator.flux(self.mock.model.labels(tensor(theta)[None]),
                                                 self.grid)
            return filtered(flux, self.profile)[0].double().numpy()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _write(self, message: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(message)
        self.process.stdin.flush()


Fitter = Callable[[Mock, int], Array]


def race(mock: Mock, fitters: dict[str, Fitter], batch: int) -> dict[str, Any]:
    """Let all fit every star in turn, and us so many stars at once."""
    count = len(mock.spectra)
    seconds: dict[str, Array] = {name: np.full(count, np.nan) for name in [*fitters, BATCH]}
    found = {name: np.full_like(mock.truth, np.nan) for name in seconds}
    for name, fitter in fitters.items():
        if name not in EVERY:
            fitter(mock, 0)
    for first in range(0, count, batch):
        stars = range(first, min(first + batch, count))
        for k in stars:
            for name, fitter in fitters.items():
                if k % EVERY.get(name, 1) == 0:
                    clock = time.perf_counter()
                    found[name][k] = fitter(mock, k)
                    seconds[name][k] = time.perf_counter() - clock
        clock = time.perf_counter()
        results = stellarfit.fit_batch([mock.spectra[k] for k in stars], **mock.options)
        seconds[BATCH][stars] = (time.perf_counter() - clock) / len(stars)
        found[BATCH][stars] = [r.values for r in results]
    return {name: {
        "seconds": quartiles(times[np.isfinite(times)].tolist()),
        **{f"times_as_fast_as_{peer}": quartiles((seconds[peer] / times).tolist())
           for peer in (CURVE_FIT, RVS) if peer in seconds and name in (LM, BATCH)},
        **errors(mock, found[name]),
    } for name, times in seconds.items()}


def errors(mock: Mock, found: Array) -> dict[str, Any]:
    """Return bias and robust scatter of each label, in units of the expected errors."""
    pull = ((found - mock.truth) / mock.expected)[np.isfinite(found).all(axis=1)]
    middle = np.median(pull, axis=0)
    scatter = 1.4826 * np.median(np.abs(pull - middle), axis=0)

    def named(values: Array) -> dict[str, float]:
        return dict(zip(mock.names, values.round(3).tolist(), strict=True))

    return {"fitted": len(pull), "bias": named(middle), "scatter": named(scatter),
            "failed": int((~(np.abs(pull) < 6.0)).any(axis=1).sum())}


def against_pysme(emulator: emulators.Emulator, limit: float) -> dict[str, Any]:
    """Fit three labels of one star, by us and by PySME, which is stopped after `limit` seconds."""
    if find_spec("pysme") is None:
        return {"skipped": "PySME is not installed: pip install 'stellarfit[synthesis]'"}
    vsini = 5.0
    mock = Mock(emulator, SIX[:3], 1, fixed={"vmic": 1.2, "rv": 0.0, "vsini": vsini})
    star, labels = mock.spectra[0], mock.model.labels(tensor(mock.truth))[0].tolist()
    ours(mock, 0)
    clock = time.perf_counter()
    report: dict[str, Any] = {LM: errors(mock, ours(mock, 0)[None])}
    report[LM]["seconds"] = own = time.perf_counter() - clock
    try:
        said = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.sme"], check=True, capture_output=True,
            text=True, timeout=limit, input=json.dumps({
                "labels": dict(zip(emulator.labels.names, labels, strict=True)), "vsini": vsini,
                "wavelength": star.wavelength.tolist(), "flux": star.flux.tolist(),
                "sigma": (star.ivar ** -0.5).tolist(),
                "resolution": RESOLUTION / np.hypot(1.0, PIXEL_SIGMA / SIGMA_PER_FWHM),
                "start": mock.middle.tolist()})).stdout
        theirs = json.loads(said.splitlines()[-1])
        report["PySME"] = {"seconds": theirs["seconds"],
                           **errors(mock, np.array([theirs["found"]]))}
        report["times_as_fast"] = round(theirs["seconds"] / own)
    except subprocess.TimeoutExpired:
        report |= {"PySME": {"stopped_after": limit}, "times_as_fast_at_least": round(limit / own)}
    except subprocess.CalledProcessError as error:
        report["PySME"] = {"failed": error.stderr.strip().splitlines()[-1]}
    return report


def table(case: str, rows: dict[str, Any]) -> str:
    """Return a race as text."""
    lines = [f"{case:18s} stars/s   s per star (quartiles)  x curve_fit  x rvspecfit  "
             "scatter/expected  largest bias  failed"]
    for name, row in rows.items():
        s = row["seconds"]
        ratios = [row.get(f"times_as_fast_as_{p}", {}).get("median", "") for p in (CURVE_FIT, RVS)]
        lines.append(
            f"{name:16s} {1.0 / s['median']:9.3f}   {s['median']:7.3f} ({s['low']:.3f}-"
            f"{s['high']:.3f})  {ratios[0]:>11}  {ratios[1]:>11}  "
            f"{np.mean(list(row['scatter'].values())):16.2f}  "
            f"{np.abs(list(row['bias'].values())).max():12.2f}  {row['failed']:6d}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--peers", "folder", default=FOLDER, show_default=True,
              type=click.Path(file_okay=False, path_type=Path))
@click.option("--stars", default=64, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--cores", default=1, show_default=True)
@click.option("--physics-limit", default=1800.0, show_default=True,
              help="Seconds after which PySME is stopped; 0 leaves it out.")
@click.option("--quick", is_flag=True, help="Three stars, to try it.")
def main(
    folder: Path, stars: int, batch: int, cores: int, physics_limit: float, quick: bool
) -> None:
    """Make the stars, race."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the peers inherit it
    torch.set_num_threads(cores)
    emulator = emulators.load("mgb-fgk").freeze()
    stars = 3 if quick else stars
    report: dict[str, Any] = {"emulator": emulator.identity, "stars": stars, "batch": batch,
                              "cores": cores, "pixels": 0}
    ten = Mock(emulator, tuple(DRAWN), stars)
    report["pixels"] = len(ten.spectra[0].wavelength)
    report["ten parameters"] = race(ten, {
        LM: ours, ADAM: lambda mock, k: ours(mock, k, "adam"), CURVE_FIT: by_curve_fit}, batch)
    print(table("ten parameters", report["ten parameters"]), flush=True)
    six = Mock(emulator, SIX, stars, tied={"ca_fe": "mg_fe", "ti_fe": "mg_fe"},
               fixed={"vmic": 1.2})
    fitters: dict[str, Fitter] = {LM: ours, CURVE_FIT: by_curve_fit}
    if python_of(RVS, folder).exists():
        fitters[RVS] = Rvspecfit(six, folder)
    else:
        print(f"rvspecfit is left out: not in {folder}, see python -m benchmarks.peers.install")
    report["six parameters"] = race(six, fitters, batch)
    if isinstance(peer := fitters.get(RVS), Rvspecfit):
        peer.close()
    print(table("six parameters", report["six parameters"]), flush=True)
    if physics_limit > 0:
        report["PySME"] = against_pysme(emulator, physics_limit)
        print("three parameters:", json.dumps(report["PySME"]))
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
