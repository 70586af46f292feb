"""How long a fit takes: ``python -m benchmarks.fit_speed SPECTRA``.

The Sun of ``SPECTRA/sun_harps.fits`` at R = 115,000 with ``mgb-fgk``, eight labels, rv and vsini
free: alone (best of three, after one that makes the templates), and as sixty-four stars in one
batch, each with its own noise at S/N 100.  Where the time goes, by cProfile.  Writes
``benchmarks/results/fit-speed.json``.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import stellarfit

RESULTS = Path(__file__).parent / "results"
FREE = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_fe", "ti_fe", "cr_fe", "rv", "vsini")
STARS, SNR = 64, 100.0
#: what a fit spends its time in: functions by file and name
PARTS = {
    "search": ("search.py", "modes"), "derivatives": ("tangents.py", "flux_and_tangents"),
    "emulator, fluxes": ("emulator.py", "flux"),
    "noise": ("problem.py", "_noise"), "verdicts": ("fitting.py", "verdicts"),
    "all": ("fitting.py", "_fit"),
}


def batch(sun: stellarfit.Spectrum) -> list[stellarfit.Spectrum]:
    """Return the Sun many times over, each with its own noise."""
    keep = (sun.wavelength > 5140.0) & (sun.wavelength < 5303.0)
    flux, sigma = sun.flux[keep], sun.flux[keep] / SNR
    rng = np.random.default_rng(0)
    return [stellarfit.Spectrum(sun.wavelength[keep], flux + sigma * rng.standard_normal(len(flux)),
                                ivar=sigma**-2, medium=sun.medium) for _ in range(STARS)]


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds spent in each part, with all that it calls; parts may overlap."""
    found = {}
    for (path, _, name), (*_, seconds, _) in pstats.Stats(profile).stats.items():  # type: ignore
        for part, where in PARTS.items():
            if (Path(path).name, name) == where:
                found[part] = round(seconds, 2)
    return found


@click.command(help=__doc__)
@click.argument("spectra", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(spectra: Path) -> None:
    """Time a star, profile it, time a batch."""
    sun = stellarfit.read(spectra / "sun_harps.fits")
    options: dict[str, Any] = {"instrument": "harps", "free": FREE}
    seconds = []
    for _ in range(4):
        clock = time.perf_counter()
        result = stellarfit.fit(sun, **options)
        seconds.append(time.perf_counter() - clock)
    with cProfile.Profile() as profile:
        stellarfit.fit(sun, **options)
    stars = batch(sun)
    clock = time.perf_counter()
    many = stellarfit.fit_batch(stars, **options)
    each = (time.perf_counter() - clock) / len(many)
    found = {
        "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "emulator": result.provenance["emulator"], "iterations": result.iterations,
        "first": seconds[0], "one": min(seconds[1:]), "batch_per_star": each,
        "converged": sum(r.converged for r in many), "profile": shares(profile),
    }
    (RESULTS / "fit-speed.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
