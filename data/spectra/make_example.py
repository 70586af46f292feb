"""Make the example star from a reference grid: ``python data/spectra/make_example.py GRID``.

The star is the validation spectrum of the FGK grid that lies nearest to the Sun in Teff,
log g and [Fe/H] (in units of 100 K, 0.1 dex and 0.1 dex).  No emulator is involved, and none
of stellarfit's own stages: rotation, line-spread function and pixels are brute-force sums
on a grid ten times finer than the star's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Column, Table
from scipy.interpolate import CubicSpline

RV, VSINI, EPSILON, RESOLUTION, SNR, SEED = 37.2, 6.0, 0.6, 30_000.0, 100.0, 20_250
C = 299_792.458
FIRST, LAST, PIXELS_PER_FWHM = 5152.0, 5299.0, 2.5
SUN = {"teff": (5772.0, 100.0), "logg": (4.438, 0.1), "fe_h": (0.0, 0.1)}


def nearest_to_the_sun(path: str) -> tuple[np.ndarray, np.ndarray, dict[str, float], int]:
    """Return ln(wavelength), flux, labels and row of the star."""
    with h5py.File(path) as file:
        names = [n.decode() if isinstance(n, bytes) else n for n in file["labels"].attrs["names"]]
        labels, split = file["labels"][:].astype(float), file["split"][:]
        distance = sum(((labels[:, names.index(n)] - sun) / unit) ** 2
                       for n, (sun, unit) in SUN.items())
        row = int(np.argmin(np.where(split == 1, distance, np.inf)))
        scale = file["flux"].attrs["scale"]
        flux = file["flux"].attrs["offset"] + scale * file["flux"][row].astype(float)
        star = dict(zip(names, labels[row].tolist(), strict=True))
        return np.log(file["wavelength"][:]), flux, star, row


def observe(log_wavelength: np.ndarray, flux: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the flux in pixels (ln wavelength of their centres, equal widths)."""
    step = 0.1 * np.median(np.diff(log_wavelength))
    fine = np.arange(log_wavelength[0], log_wavelength[-1], step)
    star = CubicSpline(log_wavelength, flux)(fine)
    # Rotation: a sum over strips of the disk, each with its own Doppler shift.
    t = (np.arange(4001) + 0.5) / 2000.5 - 1.0
    strip = 2 * (1 - EPSILON) * np.sqrt(1 - t**2) + 0.5 * np.pi * EPSILON * (1 - t**2)
    bins = np.rint(t * VSINI / C / step).astype(int)
    rotation = np.bincount(bins - bins.min(), weights=strip / strip.sum())
    star = np.convolve(np.pad(star, len(rotation), mode="edge"), rotation, mode="same")
    star = star[len(rotation):-len(rotation)]
    observed = fine + np.arctanh(RV / C)
    sigma = 1.0 / RESOLUTION / np.sqrt(8 * np.log(2))
    width = np.median(np.diff(pixels))
    result = np.empty_like(pixels)
    for i, centre in enumerate(pixels):
        # The profile averaged over the pixel, by a sum over 41 places in it.
        places = centre + width * ((np.arange(41) + 0.5) / 41 - 0.5)
        near = np.abs(observed - centre) < 6 * sigma + width
        profile = np.exp(-0.5 * ((observed[near, None] - places) / sigma) ** 2).sum(axis=1)
        result[i] = profile @ star[near] / profile.sum()
    return result


def main(path: str) -> None:
    """Write example.fits and example-truth.json beside this file."""
    log_wavelength, flux, labels, row = nearest_to_the_sun(path)
    pixels = np.arange(np.log(FIRST), np.log(LAST), 1.0 / RESOLUTION / PIXELS_PER_FWHM)
    x = (np.exp(pixels) - FIRST) / (LAST - FIRST)
    continuum = 1200.0 * (1.0 + 0.35 * x - 0.25 * x**2)
    clean = continuum * observe(log_wavelength, flux, pixels)
    sigma = np.sqrt(continuum * clean) / SNR
    noisy = clean + sigma * np.random.default_rng(SEED).standard_normal(len(clean))
    table = Table(meta={
        "OBJECT": "example", "AIRORVAC": "air", "SPECRES": RESOLUTION,
        "COMMENT": f"LTE synthesis, validation row {row} of the FGK reference grid",
    })
    table["wavelength"] = Column(np.exp(pixels), unit="Angstrom", description="in air")
    table["flux"] = Column(noisy, unit="count")
    table["uncertainty"] = Column(sigma, unit="count")
    folder = Path(__file__).parent
    table.write(folder / "example.fits", overwrite=True)
    ratios = {n[:-2] + "_fe": labels[n] - labels["fe_h"]
              for n in labels if n.endswith("_h") and n != "fe_h"}
    truth = {k: round(v, 4) for k, v in {**labels, **ratios, "rv": RV, "vsini": VSINI}.items()}
    (folder / "example-truth.json").write_text(json.dumps(
        {"source": f"validation row {row} of the FGK reference grid, nearest to the Sun",
         "resolution": RESOLUTION, "snr": SNR, "epsilon": EPSILON, "labels": truth},
        indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
