"""Fits of real spectra: ``python -m benchmarks.real_stars SPECTRA``; results, tables and plots.

SPECTRA is a folder with ``sun_harps.fits``, ``procyon_harps.fits`` and ``hd111998_harps.fits``
(R = 115,000), and of targets outside the emulator ``sdss_spec-0266-51602-0031.fits``, a white
dwarf, and ``desi_coadd-sv3-dark-26065.fits``.  Writes ``benchmarks/results/real-stars.json`` and
plots into ``docs/images/``; prints tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.ndimage import gaussian_filter1d

import stellarfit
from stellarfit.calibration import Calibration
from stellarfit.constants import SIGMA_PER_FWHM
from stellarfit.quality import names_of

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
# The Sun and Procyon: Heiter et al. 2015 (A&A 582, A49) and Jofré et al. 2014 (A&A 564, A133);
# 38 Vir = HD 111998: about, from the notes that came with its spectrum.
LITERATURE = {
    "sun": {"teff": 5772.0, "logg": 4.438, "fe_h": 0.0},
    "procyon": {"teff": 6554.0, "logg": 4.00, "fe_h": 0.01},
    "hd111998": {"teff": 6500.0, "logg": 4.2, "fe_h": 0.0},
}
IRON = ("teff", "logg", "vmic", "fe_h", "mg_fe", "rv", "vsini")
SOLAR = {**LITERATURE["sun"], "vmic": 1.0}
#: (R, S/N) of the degraded Sun
DEGRADED = ((20_000, 30), (7_500, 30), (2_000, 30))
NOISES = 5


def degraded(sun: stellarfit.Spectrum, resolution: float, snr: float, seed: int
             ) -> stellarfit.Spectrum:
    """Return HARPS's Sun as another instrument sees it, three pixels per FWHM."""
    keep = (sun.wavelength > 5120.0) & (sun.wavelength < 5303.0)  # the gap of the CCDs is redder
    step = 1e-6
    fine = np.arange(np.log(sun.wavelength[keep][0]), np.log(sun.wavelength[keep][-1]), step)
    flux = np.interp(fine, np.log(sun.wavelength[keep]), sun.flux[keep])
    missing = np.sqrt(resolution**-2.0 - 115_000**-2.0)
    broad = gaussian_filter1d(flux, SIGMA_PER_FWHM * missing / step)
    each = round(1.0 / (3.0 * resolution) / step)
    edge = int(3.0 / resolution / step) // each + 1
    pixels = broad[:len(broad) // each * each].reshape(-1, each).mean(1)[edge:-edge]
    centre = fine[:len(fine) // each * each].reshape(-1, each).mean(1)[edge:-edge]
    sigma = pixels / snr
    noise = np.random.default_rng(seed).standard_normal(len(pixels)) * sigma
    return stellarfit.Spectrum(np.exp(centre), pixels + noise, ivar=sigma**-2, medium="air",
                               name=f"Sun at R = {resolution}")


def summary(result: stellarfit.FitResult) -> dict[str, Any]:
    """Return what is kept of a fit."""
    return {
        "labels": {n: result.labels[n] for n in result.names},
        "errors": {n: result.errors[n] for n in result.names},
        "converged": result.converged, "flags": names_of(result.flags),
        "residual_rms": result.residual_rms, "reduced_chi2": result.reduced_chi2,
        "provenance": result.provenance,
    }


def row(*cells: Any) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(str(c) for c in cells) + " |"


def benchmark_stars(folder: Path) -> dict[str, Any]:
    """Fit the three stars four ways; draw two of them."""
    mask, _ = stellarfit.calibrate(folder / "sun_harps.fits", labels=SOLAR, instrument="harps",
                                   free=("rv", "vsini", "vmac"))
    report: dict[str, Any] = {}
    print(row("star", "free", "solar mask", "Teff", "log g", "[Fe/H]", "residual", "flags"))
    for star, known in LITERATURE.items():
        for free, names in (("default", None), ("iron and magnesium", IRON)):
            for calibration in (None, mask):
                result = stellarfit.fit(folder / f"{star}_harps.fits", instrument="harps",
                                        free=names, calibration=calibration)
                which = "with" if calibration is not None else "without"
                if free == "default" and calibration is None:
                    result.plot(IMAGES / f"{star}_harps.png")
                elif free != "default" and calibration is not None:
                    result.plot(IMAGES / f"{star}_masked.png")
                off = {n: result.labels[n] - known[n] for n in known}
                print(row(star, free, which, f"{result.labels['teff']:.0f} ({off['teff']:+.0f})",
                          f"{result.labels['logg']:.2f} ({off['logg']:+.2f})",
                          f"{result.labels['fe_h']:+.2f} ({off['fe_h']:+.2f})",
                          f"{100 * result.residual_rms:.1f} %",
                          ", ".join(names_of(result.flags))), flush=True)
                report.setdefault(star, {"literature": known})[f"{free}, {which} mask"] = summary(
                    result)
    report["degraded"] = degraded_sun(folder, mask)
    return report


def degraded_sun(folder: Path, mask: Calibration) -> list[dict[str, Any]]:
    """Fit the Sun at lower resolution and S/N; how far its labels are from those of R = 115,000."""
    sun, found = stellarfit.read(folder / "sun_harps.fits"), []
    print("\n" + row("R", "S/N", "solar mask", "Teff", "log g", "[Fe/H]", "largest of all labels"))
    for calibration in (None, mask):
        full = stellarfit.fit(sun, instrument="harps", free=IRON, calibration=calibration)
        for resolution, snr in DEGRADED:
            pulls = []
            for seed in range(NOISES):
                result = stellarfit.fit(
                    degraded(sun, resolution, snr, seed), resolution=resolution, free=IRON,
                    calibration=calibration)
                pulls.append({n: (result.labels[n] - full.labels[n]) / result.errors[n]
                              for n in IRON if n not in ("rv", "vsini")})
            worst = {n: max((p[n] for p in pulls), key=abs) for n in pulls[0]}
            which = "with" if calibration is not None else "without"
            print(row(resolution, snr, which, *(f"{worst[n]:+.1f} σ" for n in (
                "teff", "logg", "fe_h")), f"{max(map(abs, worst.values())):.1f} σ"), flush=True)
            found.append({"resolution": resolution, "snr": snr, "mask": which, "pulls": pulls})
    return found


def others(folder: Path) -> list[dict[str, Any]]:
    """Fit what is no FGK star: rows with flags, or a sentence that says why there is none."""
    coadd = stellarfit.read_all(folder / "desi_coadd-sv3-dark-26065.fits")
    targets = {"SDSS white dwarf": folder / "sdss_spec-0266-51602-0031.fits",
               **{f"DESI {name}": arms for name, arms in coadd.items()}}
    found = []
    print("\n" + row("target", "Teff", "[Fe/H]", "S/N", "flags, or why not"))
    for name, spectrum in targets.items():
        try:
            result = stellarfit.fit(spectrum)
        except ValueError as error:
            print(row(name, "", "", "", error))
            found.append({"target": name, "refused": str(error)})
            continue
        found.append({"target": name, **summary(result)})
        print(row(name, *(f"{result.labels[n]:.2f} ± {result.errors[n]:.2f}" for n in (
            "teff", "fe_h")), f"{result.snr:.1f}", ", ".join(names_of(result.flags))), flush=True)
    return found


@click.command(help=__doc__)
@click.argument("spectra", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(spectra: Path) -> None:
    """Fit all of it."""
    IMAGES.mkdir(exist_ok=True, parents=True)
    report = benchmark_stars(spectra)
    report["others"] = others(spectra)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "real-stars.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
