"""The fit with the emulator against a fit with the synthesis code itself in the loop.

``python -m benchmarks.physics_in_the_loop GRID``: GRID is the reference grid ``mgb-fgk.h5``, from
whose validation stars ten take their labels.  PySME makes their spectra; seen at R = 30,000 and
S/N 100, each is fitted twice for Teff, log g and [Fe/H], all else held at its truth: by
``stellarfit.fit`` with the emulator, and by Gauss-Newton steps whose spectra and derivatives
(finite differences) are PySME's.  Same pixels, same noise, same stages.  Where PySME fails, the
next star is taken.  Writes ``benchmarks/results/physics-in-the-loop.json`` after each, and goes on
from there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import emulators
import stellarfit
from emulators.synthesis.abundances import abundances
from emulators.synthesis.making import Maker
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.synthesize import prepare
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters

RESULT = Path(__file__).parent / "results" / "physics-in-the-loop.json"
FREE = ("teff", "logg", "fe_h")
STEPS = np.array([15.0, 0.03, 0.015])
RESOLUTION, SNR, VELOCITY, VSINI = 30_000.0, 100.0, 12.0, 4.0
STARS, ROUNDS = 10, 5
ALPHA = ("mg_h", "si_h", "ca_h", "ti_h")


def synthesise(maker: Maker, labels: dict[str, float]) -> np.ndarray:
    """Return PySME's flux at the training pixels, (n_pix,)."""
    alpha = float(np.clip(np.mean([labels[n] for n in ALPHA]) - labels["fe_h"], -0.2, 0.6))
    model = maker.models(labels["teff"], labels["logg"], labels["fe_h"], alpha)
    return maker.engine(model, abundances(labels), labels["vmic"], maker.wavelength).flux


class Telescope:
    """What turns spectra at the training pixels into the observed ones."""

    def __init__(self, emulator: emulators.Emulator) -> None:
        low, high = emulator.wavelength_range
        self.wavelength = np.exp(np.arange(np.log(low) + 1e-3, np.log(high) - 1e-3,
                                           1.0 / (3.0 * RESOLUTION)))
        parameters = make_parameters(
            emulator.labels, emulator.domain, free=["teff"], resolution=RESOLUTION,
            fixed={"logg": 4.0, "vmic": 1.0, "rv": VELOCITY, "vsini": VSINI})
        self.model = ForwardModel(emulator, parameters,
                                  [Arm(self.wavelength, Instrument("mock", RESOLUTION))])
        x = np.linspace(-1.0, 1.0, len(self.wavelength))
        self.terms = np.polynomial.chebyshev.chebvander(x, 3)

    def __call__(self, rest: np.ndarray) -> np.ndarray:
        """Return observed spectra (n, n_pix) of spectra (n, n_grid)."""
        seen = torch.as_tensor(rest[:, self.model.pixels])
        return self.model.through(seen, torch.zeros(1, dtype=torch.float64)).double().numpy()


def fit_with_physics(
    maker: Maker, telescope: Telescope, spectrum: stellarfit.Spectrum, known: dict[str, float],
    start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (3,) and their errors, by Gauss-Newton."""
    theta, sigma = start.copy(), spectrum.ivar ** -0.5
    for _ in range(ROUNDS):
        points = np.vstack([theta, theta + np.diag(STEPS)])
        rest = np.array([synthesise(maker, {**known, **dict(zip(FREE, p, strict=True))})
                         for p in points])
        seen = telescope(rest)
        columns = telescope.terms * (seen[0] / sigma)[:, None]
        coefficients = np.linalg.lstsq(columns, spectrum.flux / sigma, rcond=None)[0]
        continuum = telescope.terms @ coefficients
        frame = np.linalg.qr(columns)[0]
        jacobian = ((seen[1:] - seen[0]) / STEPS[:, None] * continuum / sigma).T
        jacobian -= frame @ (frame.T @ jacobian)
        residual = (spectrum.flux - seen[0] * continuum) / sigma
        information = jacobian.T @ jacobian
        step = np.linalg.solve(information, jacobian.T @ residual)
        theta = theta + step
        if (np.abs(step) < 0.02 * STEPS).all():
            break
    return theta, np.sqrt(np.diag(np.linalg.inv(information)))


@click.command(help=__doc__)
@click.argument("path", metavar="GRID",
                type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    """Fit ten stars both ways."""
    emulator, grid = emulators.load("mgb-fgk"), emulators.Grid(path)
    maker, telescope = prepare(GridRecipe.read("mgb-fgk")), Telescope(emulator)
    rows, errors = grid.rows("validation"), emulator.errors
    spacing = len(rows) // STARS
    done = (json.loads(RESULT.read_text()) if RESULT.exists() else {}).get("stars", [])
    found = [f for f in done if f["emulator_sha"] == emulator.sha256[:12]]
    for k in range(len(found), STARS):
        for index in range(k * spacing, (k + 1) * spacing):
            known = dict(zip(grid.label_set.names, grid.labels[rows[index]].tolist(), strict=True))
            if errors is not None:  # as for a star it never saw
                emulator.errors = errors.without(index)
            try:
                found.append({"row": int(rows[index]), "emulator_sha": emulator.sha256[:12],
                              **both(emulator, maker, telescope, known, seed=k)})
            except FloatingPointError as error:  # on the way, or at its own labels
                print(f"row {rows[index]}: {error}; the next one", flush=True)
                continue
            break
        write(emulator, found)


def both(
    emulator: emulators.Emulator, maker: Maker, telescope: Telescope, known: dict[str, float], *,
    seed: int,
) -> dict[str, Any]:
    """Fit one star both ways."""
    truth = np.array([known[n] for n in FREE])
    clean = telescope(synthesise(maker, known)[None])[0]
    noise = np.random.default_rng(seed).standard_normal(len(clean)) / SNR
    spectrum = stellarfit.Spectrum(telescope.wavelength, clean + noise, medium="air",
                                   ivar=np.full(len(clean), SNR**2))
    fixed = {n: v for n, v in known.items() if n not in FREE}
    clock = time.perf_counter()
    ours = stellarfit.fit(spectrum, resolution=RESOLUTION, emulator=emulator, free=FREE,
                          fixed={**fixed, "rv": VELOCITY, "vsini": VSINI})
    between = time.perf_counter()
    theirs, formal = fit_with_physics(maker, telescope, spectrum, known,
                                      truth + np.array([80.0, -0.1, 0.05]))
    print(f"{truth.round(2)} emulator - physics: {(ours.values - theirs).round(3)}  "
          f"errors {formal.round(3)}", flush=True)
    return {"truth": truth.tolist(), "emulator": ours.values.tolist(),
            "emulator_errors": [ours.errors[n] for n in FREE], "physics": theirs.tolist(),
            "physics_errors": formal.tolist(), "seconds_emulator": between - clock,
            "seconds_physics": time.perf_counter() - between}


def write(emulator: emulators.Emulator, found: list[dict[str, Any]]) -> None:
    """Write the stars so far, and what they say together."""
    off = np.array([np.subtract(f["emulator"], f["physics"]) for f in found])
    summary = {"emulator": emulator.identity, "median_abs": np.median(np.abs(off), axis=0).tolist(),
               "largest": np.abs(off).max(axis=0).tolist(), "stars": found}
    RESULT.write_text(json.dumps(summary, indent=1) + "\n")
    print("median |emulator - physics|", summary["median_abs"], "largest", summary["largest"])


if __name__ == "__main__":
    main()
