"""Injection and recovery: what goes into a spectrum comes out of the fit, within its errors.

``python -m benchmarks.recovery GRID``: GRID is the reference grid ``mgb-fgk.h5``, whose validation
spectra, of the synthesis code and not of the emulator, are observed: rotated (vsini 0-60 km/s),
shifted (±300 km/s), seen at R = 2,000-100,000 and S/N 10-300, with a curved continuum and noise.
Each is fitted for eight labels, rv and vsini, the other elements held at their true ratio to iron.
The sample of the emulator's errors that enters a fit is without that star's own.  Stars that are in
``benchmarks/results/recovery.csv`` already, by the same emulator and version, are not fitted again.
Writes that table and ``recovery.json``: bias, scatter and robust sigma of the pulls per label.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

import emulators
import stellarfit
from emulators.labels import is_abundance
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters
from stellarfit.quality import names_of

RESULTS = Path(__file__).parent / "results"
LABELS = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_fe", "ti_fe", "cr_fe")
FREE = (*LABELS, "rv", "vsini")
#: flags that warn a user off a number
WARNINGS = {"NOT_CONVERGED", "POOR_FIT", "MODEL_LIMITED", "UNCONSTRAINED", "LOW_SNR",
            "AMBIGUOUS_RV", "EDGE_OF_DOMAIN", "PRIOR_RANGE_OF_RV", "NO_INFORMATION",
            "UPPER_LIMIT", "LITTLE_COVERAGE", "MANY_OUTLIERS", "EMULATOR_LIMITED",
            "STAGE_AT_LIMIT"}
#: sigma beyond which a label is called a failure
FAILURE = 6.0


def observed(emulator: emulators.Emulator, rest: np.ndarray, star: dict[str, float],
             rng: np.random.Generator) -> stellarfit.Spectrum:
    """Return a spectrum at the training pixels as an instrument sees it, with noise."""
    low, high = emulator.wavelength_range
    step = 1.0 / (3.0 * star["resolution"])
    wavelength = np.exp(np.arange(np.log(low) - 1e-3, np.log(high) + 1e-3, step))
    arm = Arm(wavelength, Instrument("mock", star["resolution"]))
    fixed = {n: star[n] for n in ("rv", "vsini")}
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=["teff"], resolution=star["resolution"],
        fixed={"logg": 4.0, "vmic": 1.0, **fixed})
    model = ForwardModel(emulator, parameters, [arm], rv_range=(star["rv"], star["rv"]))
    sample = torch.as_tensor(rest[model.pixels])[None]
    flux = model.through(sample, torch.zeros(1, dtype=torch.float64))[0].double().numpy()
    x = np.linspace(-1.0, 1.0, len(wavelength))
    continuum = 1.0 + 0.2 * rng.uniform(-1, 1) * x + 0.1 * rng.uniform(-1, 1) * x**2
    sigma = continuum / star["snr"]
    inside = model.covers((star["rv"], star["rv"]))
    return stellarfit.Spectrum(
        wavelength, flux * continuum + sigma * rng.standard_normal(len(x)),
        ivar=np.where(inside, sigma**-2, 0.0), medium=emulator.medium)


def by(emulator: emulators.Emulator) -> str:
    """Return which emulator and which code fit."""
    code = hashlib.sha256()
    for path in sorted([*Path(stellarfit.__file__).parent.glob("*.py"),
                        Path(emulators.__file__).parent / "error_model.py"]):
        code.update(path.read_bytes())
    return f"{emulator.identity} {code.hexdigest()[:8]}"


def one(task: tuple[int, str]) -> dict[str, Any]:
    """Observe and fit star k."""
    k, path = task
    torch.set_num_threads(1)
    emulator, grid = emulators.load("mgb-fgk"), emulators.Grid(path)
    rng = np.random.default_rng([2026, k])
    rows = grid.rows("validation")
    row = rows[k % len(rows)]
    if emulator.errors is not None:
        emulator.errors = emulator.errors.without(k % len(rows))
    known = dict(zip(grid.label_set.names, grid.labels[row].tolist(), strict=True))
    star = {
        "resolution": float(np.exp(rng.uniform(np.log(2e3), np.log(1e5)))),
        "snr": float(np.exp(rng.uniform(np.log(10), np.log(300)))),
        "vsini": float(rng.uniform(0, 60)), "rv": float(rng.uniform(-300, 300)),
    }
    ratios = {n[:-1] + "fe": v - known["fe_h"] for n, v in known.items()
              if is_abundance(n) and n != "fe_h"}
    truth = {n: {**known, **ratios}[n] for n in LABELS}
    held = {**{n: v for n, v in known.items() if not is_abundance(n)}, **ratios}
    spectrum = observed(emulator, grid.flux(np.array([row]))[0].astype(float), star, rng)
    clock = time.perf_counter()
    result = stellarfit.fit(
        spectrum, resolution=star["resolution"], emulator=emulator, free=FREE,
        fixed={n: v for n, v in held.items() if n not in LABELS})
    seconds = round(time.perf_counter() - clock, 2)
    record = {"star": k, "by": by(emulator), **star, "seconds": seconds,
              "converged": result.converged, "flags": "|".join(names_of(result.flags)),
              "reduced_chi2": result.reduced_chi2}
    for name in FREE:
        record |= {f"true_{name}": {**truth, **star}[name], name: result.labels[name],
                   f"e_{name}": result.errors[name]}
    return record


def summarise(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Return bias, scatter and width of the pulls, and how many failed."""
    def numbers(name: str, rows: list[dict[str, Any]]) -> np.ndarray:
        return np.array([float(r[name]) for r in rows])

    def measures(rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = {}
        for name in FREE:
            off = numbers(name, rows) - numbers(f"true_{name}", rows)
            error = numbers(f"e_{name}", rows)
            good = np.isfinite(error) & (error > 0)
            pull = off[good] / error[good]
            found[name] = {
                "n": int(good.sum()), "bias": float(np.median(off[good])),
                "scatter": float(1.4826 * np.median(np.abs(off[good] - np.median(off[good])))),
                "pull_bias": float(np.median(pull)),
                "pull_sigma": float(0.5 * np.diff(np.percentile(pull, [15.87, 84.13]))[0]),
            }
        return found

    snr = numbers("snr", table)
    parts = {"S/N <= 100": [r for r, s in zip(table, snr, strict=True) if s <= 100],
             "S/N > 100": [r for r, s in zip(table, snr, strict=True) if s > 100]}
    failed = [r for r in table if str(r["converged"]) != "True" or any(
        not abs(float(r[n]) - float(r[f"true_{n}"])) <= FAILURE * float(r[f"e_{n}"])
        for n in FREE)]
    unflagged = [r for r in failed if not WARNINGS & set(r["flags"].split("|"))]
    return {"stars": len(table), "failed": len(failed), "failed_unflagged": len(unflagged),
            "seconds": float(np.median(numbers("seconds", table))),
            "pulls": {name: measures(rows) for name, rows in parts.items() if rows}}


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stars", default=600, show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(grid: Path, stars: int, workers: int) -> None:
    """Fit what is not fitted yet, then count."""
    path = RESULTS / "recovery.csv"
    table = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    table = [r for r in table if r["by"] == by(emulators.load("mgb-fgk"))]
    if path.exists() and not table:
        path.unlink()
    done = {int(r["star"]) for r in table}
    tasks = [(k, str(grid)) for k in range(stars) if k not in done]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for record in tqdm(pool.imap_unordered(one, tasks), total=len(tasks), unit="star"):
            with path.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, record)
                if not table:
                    writer.writeheader()
                writer.writerow(record)
            table.append(record)
    table = [r for r in table if int(r["star"]) < stars]
    summary = {"emulator": emulators.load("mgb-fgk").identity, **summarise(table)}
    (RESULTS / "recovery.json").write_text(json.dumps(summary, indent=1) + "\n")
    for part, found in summary["pulls"].items():
        print(f"\n{part}\n{'':8} {'n':>5} {'bias':>9} {'scatter':>9} {'bias/σ':>8} {'pulls':>6}")
        for name, m in found.items():
            print(f"{name:8} {m['n']:5} {m['bias']:9.3f} {m['scatter']:9.3f} "
                  f"{m['pull_bias']:8.2f} {m['pull_sigma']:6.2f}")
    print(f"\n{summary['stars']} stars, {summary['failed']} failed, "
          f"{summary['failed_unflagged']} of them without a flag, {summary['seconds']:.1f} s each")


if __name__ == "__main__":
    main()
