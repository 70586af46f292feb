"""Simulation-based calibration: are posteriors right as often as they say?

``python -m benchmarks.sbc``: truths are drawn from the prior, spectra are made of them by the
emulator with noise, and the posterior is sampled; then the rank of the truth among independent
samples is uniform for every parameter (Talts et al. 2018, arXiv:1804.06788).  With ``--grid GRID``
spectra are those of the reference grid's validation stars, from the synthesis code, and the
emulator's error is part of the noise: that tests the whole.  With ``--wrong 0.7`` the noise is
said to be smaller than it is: the test must fail.  Stars that are in the results already, by the
same code, are not sampled again.  Writes ``benchmarks/results/sbc-NAME.json``: ranks, their
chi-square, the largest distance of their cumulative distribution from uniform, coverage of the
68 % and 95 % intervals.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import binom, chi2, kstwo
from tqdm import tqdm

import emulators
import stellarfit
from emulators.labels import is_abundance
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters

RESULTS = Path(__file__).parent / "results"
#: the prior: uniform in this box, cut by the emulator's domain
PRIOR = {"teff": (5000.0, 6500.0), "logg": (3.0, 5.0), "fe_h": (-1.0, 0.3),
         "mg_fe": (-0.2, 0.5), "rv": (-10.0, 10.0)}
FIXED = {"vmic": 1.2, "vsini": 4.0}
RESOLUTION, SNR = 20_000.0, 40.0
WINDOW = (5180.0, 5188.0)
#: independent samples that a truth is ranked among, and bins of their histogram
RANKED, BINS = 99, 20


def telescope(emulator: emulators.Emulator, rv: float) -> tuple[ForwardModel, np.ndarray]:
    """Return what observes at a velocity, and the wavelengths."""
    wavelength = np.exp(np.arange(*np.log(WINDOW), 1.0 / (3.0 * RESOLUTION)))
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=["teff", "logg", "fe_h", "mg_fe"],
        fixed={**FIXED, "rv": rv}, resolution=RESOLUTION)
    return ForwardModel(emulator, parameters, [Arm(wavelength, Instrument("mock", RESOLUTION))],
                        rv_range=(rv, rv)), wavelength


def truth_of(emulator: emulators.Emulator, rng: np.random.Generator) -> dict[str, float]:
    """Draw from the prior."""
    while True:
        truth = {n: float(rng.uniform(*limits)) for n, limits in PRIOR.items()}
        model, _ = telescope(emulator, truth["rv"])
        theta = torch.tensor([[truth[n] for n in model.parameters.names]], dtype=torch.float64)
        if emulator.domain.contains(model.labels(theta).numpy()).all():
            return truth


def one(task: tuple[int, str, float, str, str]) -> dict[str, Any]:
    """Make star k, sample its posterior, rank its truth."""
    k, path, wrong, sampler, version = task
    torch.set_num_threads(1)
    emulator, rng = emulators.load("mgb-fgk"), np.random.default_rng([7, k])
    options: dict[str, Any] = {"emulator_error": bool(path)}
    fixed = dict(FIXED)
    if path:
        grid = emulators.Grid(path)
        rows = grid.rows("validation")
        row = rows[k % len(rows)]
        known = dict(zip(grid.label_set.names, grid.labels[row].tolist(), strict=True))
        if emulator.errors is not None:  # as for a star it never saw
            emulator.errors = emulator.errors.without(k % len(rows))
        truth = {**{n: known[n] for n in ("teff", "logg", "fe_h")},
                 "mg_fe": known["mg_h"] - known["fe_h"], "rv": float(rng.uniform(*PRIOR["rv"]))}
        fixed |= {"vmic": known["vmic"], **{
            n: v for n, v in known.items() if not is_abundance(n) and n not in PRIOR}}
        fixed |= {n[:-1] + "fe": v - known["fe_h"] for n, v in known.items()
                  if is_abundance(n) and n not in ("fe_h", "mg_h")}
        model, wavelength = telescope(emulator, truth["rv"])
        rest = torch.as_tensor(grid.flux(np.array([row]))[0])[None, model.pixels]
        flux = model.through(rest, torch.zeros(4, dtype=torch.float64))[0].double().numpy()
        priors = {"rv": f"uniform:{PRIOR['rv'][0]}:{PRIOR['rv'][1]}"}
    else:
        truth = truth_of(emulator, rng)
        model, wavelength = telescope(emulator, truth["rv"])
        theta = torch.tensor([[truth[n] for n in model.parameters.names]], dtype=torch.float64)
        flux = model.flux(theta)[0].double().numpy()
        priors = {n: f"uniform:{low}:{high}" for n, (low, high) in PRIOR.items()}
    sigma = 1.0 / SNR
    spectrum = stellarfit.Spectrum(
        wavelength, flux + sigma * rng.standard_normal(len(flux)), medium=emulator.medium,
        ivar=np.full(len(flux), (wrong * sigma) ** -2))
    posterior = stellarfit.sample(
        spectrum, sampler=sampler, resolution=RESOLUTION, emulator=emulator, free=list(PRIOR),
        fixed=fixed, priors=priors, continuum=1, jitter=False, robust=False, seed=k,
        progress=False, **options)
    # Independent: as far apart as the samples are many.
    chosen = rng.permutation(len(posterior.samples))[:RANKED]
    ranks = {n: int((posterior.of(n)[chosen] < truth[n]).sum()) for n in PRIOR}
    inside = {n: [bool(low <= truth[n] <= high) for low, _, high in (
        posterior.interval(n, level) for level in (0.68, 0.95))] for n in PRIOR}
    return {"star": k, "by": version, "ranks": ranks, "inside": inside,
            "converged": posterior.converged, "ess": float(posterior.diagnosis.ess.min())}


def code() -> str:
    """Return which code samples."""
    digest = hashlib.sha256()
    folder = Path(stellarfit.__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("posterior/*.py")]):
        digest.update(path.read_bytes())
    return f"{emulators.load('mgb-fgk').identity} {digest.hexdigest()[:8]}"


def judge(stars: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, per parameter, how uniform ranks are and how often intervals hold the truth."""
    found, count = {}, len(stars)
    for name in PRIOR:
        ranks = np.array([s["ranks"][name] for s in stars])
        seen = np.histogram(ranks, bins=np.linspace(-0.5, RANKED + 0.5, BINS + 1))[0]
        square = float(((seen - count / BINS) ** 2 / (count / BINS)).sum())
        cumulative = np.arange(1, RANKED + 2) / (RANKED + 1)
        distance = float(np.abs(np.searchsorted(np.sort(ranks), np.arange(RANKED + 1), "right")
                                / count - cumulative).max())
        held = np.array([s["inside"][name] for s in stars]).mean(0)
        found[name] = {
            "chi2_p": float(chi2.sf(square, BINS - 1)),
            "ecdf_p": float(kstwo.sf(distance, count)), "ecdf_distance": distance,
            "coverage_68": float(held[0]), "coverage_95": float(held[1]),
            "band_68": [float(x) / count for x in binom.interval(0.99, count, 0.68)],
            "band_95": [float(x) / count for x in binom.interval(0.99, count, 0.95)],
        }
    return found


@click.command(help=__doc__)
@click.option("--stars", default=1000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--sampler", default="emcee", show_default=True)
@click.option("--grid", type=click.Path(exists=True, dir_okay=False), default=None)
@click.option("--wrong", default=1.0, show_default=True, help="Noise is said to be so many times.")
def main(stars: int, workers: int, sampler: str, grid: str | None, wrong: float) -> None:
    """Sample what is not sampled yet, then count."""
    name = f"{sampler}-{'grid' if grid else 'emulator'}" + (f"-{wrong:g}" if wrong != 1 else "")
    path, version = RESULTS / f"sbc-{name}.json", code()
    done = json.loads(path.read_text())["stars"] if path.exists() else []
    done = [s for s in done if s["by"] == version][:stars]
    known = {s["star"] for s in done}
    tasks = [(k, grid or "", wrong, sampler, version) for k in range(stars) if k not in known]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for i, star in enumerate(tqdm(pool.imap_unordered(one, tasks), total=len(tasks),
                                      unit="star")):
            done.append(star)
            if i % 20 == 19 or i == len(tasks) - 1:
                path.write_text(json.dumps({
                    "count": len(done), "converged": sum(s["converged"] for s in done),
                    "judged": judge(done), "stars": sorted(done, key=lambda s: s["star"])}) + "\n")
    print(f"{name}: {len(done)} stars, {sum(s['converged'] for s in done)} converged")
    print(f"{'':8} {'chi2 p':>8} {'ecdf p':>8} {'68 %':>7} {'95 %':>7}")
    for parameter, m in judge(done).items():
        print(f"{parameter:8} {m['chi2_p']:8.3f} {m['ecdf_p']:8.3f} "
              f"{100 * m['coverage_68']:6.1f}% {100 * m['coverage_95']:6.1f}%")


if __name__ == "__main__":
    main()
