"""The synthesis against the Sun: ``python -m benchmarks.sun SPECTRA``; numbers and a picture.

SPECTRA is a folder with ``sun_harps.fits``.  The Sun's labels are known (5772 K, 4.438, solar
abundances of Asplund et al. 2009, vmic 1.0 km/s) and none is fitted: only velocity, a Gaussian
broadening (instrument, rotation and macroturbulence together) and a polynomial continuum of
degree 4 per window are.  Writes ``benchmarks/results/sun.json`` and ``docs/images/sun.png``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares

import stellarfit
from emulators.synthesis.abundances import abundances
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.synthesize import prepare

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
WINDOWS = ((5150.0, 5300.0), (5300.0, 5450.0), (6400.0, 6550.0), (6500.0, 6640.0))
SUN = {"teff": 5772.0, "logg": 4.438, "vmic": 1.0}
SAMPLING = 300_000
H_ALPHA, WINGS = 6562.80, (2.0, 3.0, 5.0, 10.0)
LIGHT = 299792.458


def synthesis(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return wavelengths in air and the normalised flux of the Sun."""
    recipe = GridRecipe.from_dict({
        "grid": {"number": 1},
        "wavelength": {"windows": [[low - 2, high + 2]], "resolution": SAMPLING, "medium": "air"},
        "labels": SUN, "elements": [{"of": "others", "on": 0.0}],
    })
    maker = prepare(recipe)
    made = maker.engine(maker.models(SUN["teff"], SUN["logg"], 0.0, 0.0), abundances({}),
                        SUN["vmic"], maker.wavelength)
    return recipe.wavelength, made.flux


def compare(star: stellarfit.Spectrum, low: float, high: float) -> dict[str, Any]:
    """Return what remains between the star and the synthesis in a window."""
    here = (star.wavelength > low) & (star.wavelength < high) & ~star.mask
    at, flux = star.wavelength[here], star.flux[here]
    grid, model = synthesis(low, high)
    x = 2.0 * (at - at[0]) / (at[-1] - at[0]) - 1.0
    terms = np.polynomial.chebyshev.chebvander(x, 4)

    def residual(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        velocity, sigma = parameters
        broad = gaussian_filter1d(model, abs(sigma) / LIGHT * SAMPLING)
        seen = np.interp(at, grid * (1.0 + velocity / LIGHT), broad)
        # The continuum that leaves the upper envelope alone: three rounds without outliers.
        good = np.ones(len(at), dtype=bool)
        for _ in range(3):
            factor = terms @ np.linalg.lstsq(terms[good] * seen[good, None], flux[good],
                                             rcond=None)[0]
            left = flux / factor - seen
            good = np.abs(left) < 3.0 * 1.4826 * np.median(np.abs(left))
        residual.seen = seen, flux / factor
        return left

    best = min((least_squares(residual, [v, 3.0], loss="soft_l1", f_scale=0.01, diff_step=1e-3)
                for v in (-1.0, 0.0, 1.0)), key=lambda r: r.cost)
    left = residual(best.x)
    return {
        "window": [low, high], "median_abs": float(np.median(np.abs(left))),
        "rms": float(left.std()), "velocity": float(best.x[0]), "sigma": float(abs(best.x[1])),
        "n_pix": len(at), "plot": (at, *residual.seen),
    }


def wings(at: NDArray[np.float64], model: NDArray[np.float64],
          star: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return the flux of star and synthesis at distances from H-alpha, blends passed over.

    The upper part of 0.6 Angstrom of either side, averaged.
    """
    def between_lines(flux: NDArray[np.float64], distance: float) -> float:
        sides = (np.abs(at - H_ALPHA - sign * distance) < 0.3 for sign in (-1, 1))
        return float(np.mean([np.percentile(flux[side], 85) for side in sides]))

    return {f"{d:g}": [between_lines(star, d), between_lines(model, d)] for d in WINGS}


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Plot each window and its residual."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(found), 1, figsize=(10, 12), constrained_layout=True)
    for one, axis in zip(found, axes, strict=True):
        at, model, star = one["plot"]
        gap = 1 + np.flatnonzero(np.diff(at) > 1.0)  # between the detectors; no line across it
        at, model, star = (np.insert(x, gap, np.nan) for x in (at, model, star))
        axis.plot(at, star, color="black", lw=0.8, label="Sun, HARPS")
        axis.plot(at, model, color="#d55e00", lw=0.8, label="synthesis at solar labels")
        axis.plot(at, star - model - 0.15, color="#0072b2", lw=0.5, label="difference - 0.15")
        axis.axhline(-0.15, color="grey", lw=0.5)
        axis.set_xlim(*one["window"])
        axis.set_ylim(-0.45, 1.1)
        axis.set_ylabel("normalised flux")
        axis.set_title(f"median |difference| {100 * one['median_abs']:.2f} %", fontsize=9,
                       loc="right")
    axes[0].legend(fontsize=8, loc="lower left", ncols=3)
    axes[-1].set_xlabel("wavelength in air, Å")
    figure.savefig(path, dpi=110)


@click.command(help=__doc__)
@click.argument("spectra", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(spectra: Path) -> None:
    """Compare all windows."""
    star = stellarfit.read(spectra / "sun_harps.fits")
    found = [compare(star, *window) for window in WINDOWS]
    draw(found, IMAGES / "sun.png")
    for one in found:
        plot = one.pop("plot")
        if one["window"][0] < H_ALPHA - 20 and one["window"][1] > H_ALPHA + 20:
            one["h_alpha_star_and_synthesis"] = wings(*plot)
            print("H-alpha:", one["h_alpha_star_and_synthesis"])
        print("{window[0]:.0f}-{window[1]:.0f} Å: median {median_abs:.4f}, rms {rms:.4f}, "
              "velocity {velocity:.2f} km/s, sigma {sigma:.2f} km/s".format(**one))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sun.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
