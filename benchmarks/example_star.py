"""How far the example star's fit is from its truth, and what part is the emulator's error.

``python -m benchmarks.example_star GRID`` with the FGK reference grid; writes
``benchmarks/results/example.json`` and the picture of the fit in ``docs/images``.

Three fits of the same pixels: the example itself; a noiseless copy whose star is the grid's
spectrum (what is off is the emulator's error and the elements that follow iron in the fit
but not in the star); a noiseless copy made by the emulator at the true labels (what is off
is the elements alone).
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import click
import numpy as np
import torch

import emulators
import stellarfit
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters

RESULTS = Path(__file__).parent / "results"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "example.png"
SPECTRA = Path(str(resources.files("emulators.data"))) / "spectra"


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False))
def main(grid: str) -> None:
    """Fit the three versions and report."""
    truth = json.loads((SPECTRA / "example-truth.json").read_text())["labels"]
    emulator = emulators.load("mgb-fgk")
    with emulators.Grid(grid) as file:
        rows_ = file.rows("validation")
        off = np.abs(file.labels[rows_, file.label_set.index("teff")] - truth["teff"])
        place = int(np.argmin(off))
        synthetic = torch.as_tensor(file.flux(rows_[[place]])[0])
    stellarfit.fit(SPECTRA / "example.fits", resolution=30_000).plot(IMAGE)  # as `make fit` does
    if emulator.errors is not None:  # as for a star it never saw
        emulator.errors = emulator.errors.without(place)
    fitted = stellarfit.fit(SPECTRA / "example.fits", resolution=30_000, emulator=emulator)

    names = list(emulator.labels.names)
    parameters = make_parameters(emulator.labels, emulator.domain, free=names, resolution=30_000,
                                 fixed={n: truth[n] for n in ("rv", "vsini")})
    star = fitted.spectrum
    arm = Arm(star.wavelength, Instrument("example", 30_000))
    model = ForwardModel(emulator, parameters, [arm])
    labels = torch.tensor([[truth[n] for n in names]], dtype=torch.float64)
    with torch.no_grad():
        emulated = emulator.flux(labels, torch.as_tensor(emulator.pixels))[0]
        versions = {"noiseless": synthetic, "noiseless, by the emulator": emulated}
        report = {"example": fitted}
        for key, rest in versions.items():
            seen = model.through(rest[None, model.pixels], labels[0])[0]
            clean = seen.double().numpy() * fitted.continuum
            report[key] = stellarfit.fit(replace(star, flux=clean), resolution=30_000,
                                         emulator=emulator)
    errors = [fitted.errors[n] for n in fitted.names]
    rows = {n: {"truth": truth[n], "error": e,
                **{key: r.labels[n] - truth[n] for key, r in report.items()}}
            for n, e in zip(fitted.names, errors, strict=True)}
    print(f"{'':8s} {'truth':>9s} {'error':>8s} " + " ".join(f"{k:>26s}" for k in report))
    for n, row_ in rows.items():
        print(f"{n:8s} {row_['truth']:9.3f} {row_['error']:8.3f} " + " ".join(
            f"{row_[k]:+15.3f} ({row_[k] / row_['error']:+6.1f} σ)" for k in report))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "example.json").write_text(json.dumps(
        {"emulator": emulator.identity, "seconds": fitted.provenance["seconds"],
         "reduced_chi2": fitted.reduced_chi2, "flux_mae_of_this_star":
             float((emulated - synthetic).abs().mean()), "parameters": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
