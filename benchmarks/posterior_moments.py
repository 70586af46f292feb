"""Do samplers agree with brute force? ``python -m benchmarks.posterior_moments``.

A star of the quick emulator of `benchmarks.sbc` at low S/N, so that its posterior is cut by its
prior and is no Gaussian.  Three parameters are free, and the posterior on a fine grid of them has
moments that owe nothing to chance: means, standard deviations, correlations.  Each sampler goes on
beyond convergence, until its worst parameter has so many independent samples that chance moves a
moment by well under the 3 % that are asked for.  Writes
``benchmarks/results/posterior-moments.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import skew

import stellarfit
from benchmarks.sbc import PIXELS, RESOLUTION, quick_emulator, telescope
from stellarfit.conclusion import conclude
from stellarfit.fitting import best_of
from stellarfit.posterior.density import Density
from stellarfit.posterior.ensembles import Ensembles
from stellarfit.posterior.importance import Importance
from stellarfit.posterior.nuts import Nuts
from stellarfit.preparing import prepare

RESULTS = Path(__file__).parent / "results"
Array = NDArray[np.float64]
STAR = {"teff": 5400.0, "logg": 4.6, "vmic": 1.2, "fe_h": -0.3, "mg_fe": 0.1, "ca_fe": 0.0,
        "ti_fe": 0.0, "cr_fe": 0.0}
STAGES = {"rv": 3.0, "vsini": 5.0}
FREE = ("teff", "logg", "fe_h")
SNR = 12.0
#: the prior, which cuts the posterior on either side
LIMITS = {"logg": (4.4, 5.0)}
#: points of the grid along an axis, and how many of the fit's standard deviations it reaches
POINTS, REACH = 75, 7.0
#: independent samples: a standard deviation is then known to 0.9 %, a mean to 1.3 % of it
ENOUGH = 6000


def posterior() -> Density:
    """Return the posterior of the star."""
    emulator = quick_emulator()
    model = telescope(emulator, {}, **STAGES)
    theta = torch.tensor([[STAR[n] for n in model.parameters.names]], dtype=torch.float64)
    flux = model.flux(theta)[0].double().numpy()
    noise = np.random.default_rng(3).standard_normal(len(flux)) / SNR
    star = stellarfit.Spectrum(PIXELS, flux + noise, ivar=np.full(len(flux), SNR**2),
                               medium=emulator.medium)
    fixed = {**{n: v for n, v in STAR.items() if n not in FREE}, **STAGES}
    problem, solution, gap = best_of(prepare(
        [star], resolution=RESOLUTION, emulator=emulator, free=list(FREE), fixed=fixed,
        priors={n: "uniform:{}:{}".format(*x) for n, x in LIMITS.items()}, continuum=2))
    return Density(problem, conclude(problem, solution, gap)[0])


def moments(points: Array, weight: Array | None = None) -> dict[str, Array]:
    """Return means, standard deviations and correlations of points (n, 3)."""
    mean = np.average(points, axis=0, weights=weight)
    covariance = np.cov(points.T, aweights=weight, ddof=0)
    sigma = np.sqrt(np.diag(covariance))
    return {"mean": mean, "sigma": sigma, "correlation": covariance / np.outer(sigma, sigma)}


def on_a_grid(density: Density) -> tuple[Array, Array]:
    """Return the points of a fine grid and their weights."""
    sigma = np.sqrt(np.diag(density.covariance))
    inner = (np.arange(POINTS) + 0.5) / POINTS  # of cells that end where the prior does
    axes = []
    for name, b, s in zip(FREE, density.values, sigma, strict=True):
        low, high = np.clip([b - REACH * s, b + REACH * s], *LIMITS.get(name, (-np.inf, np.inf)))
        axes.append(low + (high - low) * inner)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    log = np.concatenate([density(part) for part in np.array_split(points, 200)])
    return points, np.exp(log - log.max())


def sampled(density: Density, name: str) -> tuple[Array, float, float]:
    """Return so many samples, how many are independent, and the seconds they took."""
    running: Any = {"emcee": Ensembles, "nuts": Nuts, "importance": Importance}[name](
        density, chains=2, seed=5)
    clock = time.perf_counter()
    running.advance(running.block, lambda: None)
    while (found := running.diagnose()).ess.min() < ENOUGH or not found.converged:
        blocks = running.chain.shape[1] // running.block
        running.advance(running.block * min(10, max(1, blocks // 2)), lambda: None)
    chosen = stellarfit.Posterior(density.best, running.chain, running.log_probability, found,
                                  np.empty((3, 0))).samples
    return chosen, float(found.ess.min()), time.perf_counter() - clock


@click.command(help=__doc__)
def main() -> None:
    """Compare, print and write."""
    torch.set_num_threads(1)  # spectra of this emulator are too small to share
    density = posterior()
    points, weight = on_a_grid(density)
    exact = moments(points, weight)
    lopsided = [float(s) for s in (weight @ (points - exact["mean"]) ** 3
                                   / weight.sum() / exact["sigma"] ** 3)]
    print("skewness of " + ", ".join(f"{n} {s:+.2f}" for n, s in zip(FREE, lopsided, strict=True)))
    report: dict[str, Any] = {"parameters": FREE, "grid": {
        "points": len(points), "skewness": lopsided,
        **{k: v.tolist() for k, v in exact.items()}}}
    for name in ("emcee", "importance", "nuts"):
        samples, ess, seconds = sampled(density, name)
        own = moments(samples)
        off = {"mean": (own["mean"] - exact["mean"]) / exact["sigma"],
               "sigma": own["sigma"] / exact["sigma"] - 1.0,
               "correlation": (own["correlation"] - exact["correlation"])[np.triu_indices(3, 1)]}
        largest = max(float(np.abs(v).max()) for v in off.values())
        report[name] = {"ess": ess, "seconds": seconds, "largest": largest,
                        "skewness": skew(samples).tolist(),
                        **{k: v.tolist() for k, v in off.items()}}
        print(f"{name:10} {ess:.0f} independent samples in {seconds:.0f} s; off by at most "
              f"{100 * largest:.1f} % (" + ", ".join(
                  f"{k} {100 * np.abs(v).max():.1f}" for k, v in off.items()) + ")", flush=True)
        (RESULTS / "posterior-moments.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
