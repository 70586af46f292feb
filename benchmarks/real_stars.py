"""Fits of real stars: ``python -m benchmarks.real_stars SPECTRA``; results and plots.

SPECTRA is a folder with ``sun_harps.fits`` and ``procyon_harps.fits``.  Writes
``benchmarks/results/real-stars.json`` and a plot per star into ``docs/images/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

import stellarfit

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
# Heiter et al. 2015 (A&A 582, A49) and Jofré et al. 2014 (A&A 564, A133).
LITERATURE = {
    "sun_harps": {"teff": 5772.0, "logg": 4.438, "fe_h": 0.0},
    "procyon_harps": {"teff": 6554.0, "logg": 4.00, "fe_h": 0.01},
}

# With few elements free, Teff and log g absorb what the line data get wrong; with many,
# the elements do.
FREE = {"default": None, "iron and magnesium": [
    "teff", "logg", "vmic", "fe_h", "mg_fe", "rv", "vsini"]}


@click.command(help=__doc__)
@click.argument("spectra", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(spectra: Path) -> None:
    """Fit each star at R = 115,000 and compare with the literature."""
    report: dict[str, dict[str, object]] = {}
    for name, known in LITERATURE.items():
        for which, free in FREE.items():
            result = stellarfit.fit(spectra / f"{name}.fits", resolution=115_000, free=free)
            print(f"--- {which}\n{result.summary(known)}\n")
            if free is None:
                IMAGES.mkdir(exist_ok=True, parents=True)
                result.plot(IMAGES / f"{name}.png")
            report.setdefault(name, {"literature": known})[which] = {
                "labels": {n: result.labels[n] for n in result.names},
                "errors": {n: result.errors[n] for n in result.names},
                "converged": result.converged, "flags": result.flags,
                "residual_rms": result.residual_rms, "provenance": result.provenance,
            }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "real-stars.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
