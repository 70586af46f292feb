"""How fast posteriors are: ``python -m benchmarks.posterior_speed``.

Stars are made by ``mgb-fgk`` with noise at S/N 100 per pixel, R = 20,000.  Three comparisons, each
in one run: emcee as here against the same moves with a spectrum at a time, and against emcee's own
stretch move with a spectrum at a time, which is what a script would do (10 parameters, 10 Å);
emcee against NUTS at 15 and 30 parameters (40 Å), after burn-in and warm-up; stars side by side
against one after the other (10 parameters, 10 Å, importance sampling).  ESS is that of the worst
parameter.  Writes ``benchmarks/results/posterior-speed.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import emcee
import numpy as np
import torch
from numpy.typing import NDArray

import emulators
import stellarfit
from stellarfit.arm import Arm
from stellarfit.conclusion import conclude
from stellarfit.fitting import best_of
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters
from stellarfit.posterior.density import Density, log_likelihood
from stellarfit.posterior.diagnostics import autocorrelation_time
from stellarfit.posterior.ensembles import Ensembles
from stellarfit.posterior.nuts import Nuts
from stellarfit.preparing import prepare

RESULTS = Path(__file__).parent / "results"
Array = NDArray[np.float64]
RESOLUTION, SNR = 20_000.0, 100.0
NARROW, WIDE = (5178.0, 5188.0), (5160.0, 5200.0)
STAR = {"teff": 5700.0, "logg": 4.2, "vmic": 1.2, "fe_h": -0.2, "rv": 3.0, "vsini": 5.0}
TEN = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_fe", "ti_fe", "cr_fe", "rv", "vsini")
FIFTEEN = (*TEN[:-2], "c_fe", "mn_fe", "ni_fe", "nd_fe", "y_fe", "rv", "vsini")
THIRTY = (*FIFTEEN[:-2], "sc_fe", "v_fe", "co_fe", "cu_fe", "zn_fe", "zr_fe", "la_fe", "ce_fe",
          "pr_fe", "sm_fe", "si_fe", "na_fe", "n_fe", "o_fe", "gd_fe", "rv", "vsini")
ENOUGH = 400.0
#: of emcee's ensemble and of NUTS's chain: many times their autocorrelation
STEPS = {"emcee": 400, "nuts": 150}
PARTS = ("vectorised", "side_by_side", "nuts")


def observed(window: tuple[float, float], seed: int = 0) -> stellarfit.Spectrum:
    """Return a star of the emulator with noise."""
    emulator = emulators.load("mgb-fgk")
    wavelength = np.exp(np.arange(*np.log(window), 1.0 / (2.5 * RESOLUTION)))
    free = [n for n in STAR if n not in ("rv", "vsini")]
    parameters = make_parameters(emulator.labels, emulator.domain, free=free, fixed={
        "rv": STAR["rv"], "vsini": STAR["vsini"]}, resolution=RESOLUTION)
    model = ForwardModel(emulator, parameters, [Arm(wavelength, Instrument("mock", RESOLUTION))],
                         rv_range=(STAR["rv"], STAR["rv"]))
    theta = torch.tensor([[STAR[n] for n in parameters.names]], dtype=torch.float64)
    flux = model.flux(theta)[0].double().numpy()
    noise = np.random.default_rng(seed).standard_normal(len(flux)) / SNR
    return stellarfit.Spectrum(wavelength, flux + noise, ivar=np.full(len(flux), SNR**2),
                               medium=emulator.medium)


def density_of(window: tuple[float, float], free: tuple[str, ...]) -> Density:
    """Return the posterior of a star that has been fitted."""
    problem, solution, gap = best_of(prepare(
        [observed(window)], resolution=RESOLUTION, free=list(free), continuum=2))
    return Density(problem, conclude(problem, solution, gap)[0])


def one_by_one(density: Density) -> Density:
    """Return the density, evaluated a spectrum at a time."""
    problem, star = density.problem, np.zeros(1, dtype=np.int64)
    return Density(problem, density.best, likelihood=lambda theta: np.concatenate(
        [log_likelihood(problem, t[None], star) for t in theta]))


def stepping(sampler: Any, first: Array, steps: int) -> tuple[Array, float]:
    """Return the chain (n_step, n_walker, n) of an emcee sampler, and seconds per step."""
    clock = time.perf_counter()
    sampler.run_mcmc(first, steps, skip_initial_state_check=True)
    return sampler.get_chain(), (time.perf_counter() - clock) / steps


def vectorised(stretch_steps: int) -> dict[str, Any]:
    """Compare emcee as here with emcee as a script would call it."""
    density = density_of(NARROW, TEN)
    shipped = Ensembles(density, chains=1)
    walkers = shipped.chain.shape[2]
    clock = time.perf_counter()
    for _ in range(6):
        shipped.advance(50, lambda: None)
    seconds = (time.perf_counter() - clock) / 300
    tau = float(shipped.diagnose().tau.max())

    slow = Ensembles(one_by_one(density), chains=1)
    clock = time.perf_counter()
    slow.advance(10, lambda: None)
    seconds_apart = (time.perf_counter() - clock) / 10

    first = density.scattered(walkers, np.random.default_rng(1))
    chain, _ = stepping(emcee.EnsembleSampler(walkers, len(density), density, vectorize=True),
                        first, stretch_steps)
    tau_stretch = float(autocorrelation_time(chain[None, stretch_steps // 4:]).max())
    alone = emcee.EnsembleSampler(walkers, len(density),
                                  lambda theta: float(density(theta[None])[0]))
    _, seconds_stretch = stepping(alone, first, 20)
    rates = {"as shipped": walkers / tau / seconds,
             "shipped moves, a spectrum at a time": walkers / tau / seconds_apart,
             "stretch move, a spectrum at a time": walkers / tau_stretch / seconds_stretch}
    return {"walkers": walkers, "tau": tau, "tau_stretch": tau_stretch,
            "stretch_steps": stretch_steps,
            "seconds_per_step": [seconds, seconds_apart, seconds_stretch],
            "ess_per_second": rates}


def against_nuts(free: tuple[str, ...]) -> dict[str, Any]:
    """Compare emcee and NUTS: ESS per second after the warm-up, and seconds to enough samples."""
    density = density_of(WIDE, free)
    found: dict[str, Any] = {"parameters": len(free)}
    for name, steps in STEPS.items():
        running: Any = {"emcee": Ensembles, "nuts": Nuts}[name](density, chains=1)
        clock = time.perf_counter()
        warm_up = 0.0
        if name == "nuts":
            running.advance(1, lambda: None)
            warm_up = time.perf_counter() - clock
            clock = time.perf_counter()
        for _ in range(steps // 50):
            running.advance(50, lambda: None)
        seconds = time.perf_counter() - clock
        diagnosis = running.diagnose()
        if name == "emcee":  # what is thrown away at the beginning is its warm-up
            warm_up = seconds * diagnosis.burn_in / steps
            seconds -= warm_up
        rate = float(diagnosis.ess.min()) / seconds
        found[name] = {"tau": float(diagnosis.tau.max()), "ess_per_second": rate,
                       "warm_up": warm_up, "seconds_to_400": warm_up + ENOUGH / rate,
                       "divergences": diagnosis.divergences}
        print(f"{len(free)} parameters, {name}: tau {diagnosis.tau.max():.1f}, "
              f"{rate:.2f} independent samples a second, "
              f"{found[name]['seconds_to_400']:.0f} s to {ENOUGH:.0f}", flush=True)
    return found


def side_by_side(count: int) -> dict[str, float]:
    """Return seconds per star of a batch and of stars one after the other."""
    stars = [observed(NARROW, seed) for seed in range(count)]
    how: dict[str, Any] = {"resolution": RESOLUTION, "free": list(TEN), "continuum": 2,
                           "sampler": "importance", "progress": False}
    stellarfit.sample(stars[0], **how)  # what is remembered of templates
    clock = time.perf_counter()
    for star in stars:
        stellarfit.sample(star, **how)
    alone = time.perf_counter() - clock
    clock = time.perf_counter()
    posteriors = stellarfit.sample_batch(stars, **how)
    return {"stars": count, "alone": alone / count,
            "batch": (time.perf_counter() - clock) / count,
            "converged": sum(p.converged for p in posteriors)}


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True)
@click.option("--stretch-steps", default=2000, show_default=True)
@click.option("--stars", default=16, show_default=True)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS,
              help="Measure only this; the others stay as they were.")
def main(threads: int, stretch_steps: int, stars: int, parts: tuple[str, ...]) -> None:
    """Measure, print and write."""
    torch.set_num_threads(threads)
    path = RESULTS / "posterior-speed.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    report["threads"] = threads
    if "vectorised" in parts:
        report["vectorised"] = vectorised(stretch_steps)
        best = report["vectorised"]["ess_per_second"]["as shipped"]
        for name, rate in report["vectorised"]["ess_per_second"].items():
            print(f"{name}: {rate:.2f} independent samples a second (as shipped: "
                  f"{best / rate:.1f} times as many)", flush=True)
    if "side_by_side" in parts:
        report["side_by_side"] = side_by_side(stars)
        print(report["side_by_side"], flush=True)
    if "nuts" in parts:
        report["nuts"] = [against_nuts(free) for free in (FIFTEEN, THIRTY)]
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
