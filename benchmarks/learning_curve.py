"""The error of ``mgb-fgk`` against the number of its spectra.

``python -m benchmarks.learning_curve GRID REFERENCE RUNS``: GRID is made by ``emulators
synthesize mgb-fgk -o GRID --number 6000``, REFERENCE is the grid ``mgb-fgk.h5`` that others
made, on whose validation spectra nothing is chosen.  Fine-tunes ``mgb-base`` on the first N
spectra of GRID, the same steps for each N; a run in RUNS that was killed goes on, one that is
finished stays.  Writes ``benchmarks/results/learning-curve.json`` and
``docs/images/learning-curve.png``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

import emulators

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
NUMBERS = (340, 690, 1380, 2750, 5500)
STEPS = 8_000


def error(grid: Path, reference: Path, number: int, run: Path) -> dict[str, float]:
    """Return the measures on the reference after training with so many spectra."""
    with emulators.Grid(grid) as spectra:
        rows = spectra.rows("train")
        if len(rows) < number:
            raise click.UsageError(f"'{grid}' has {len(rows)} training spectra, not {number}")
        spectra.split[rows[number:]] = 9
        emulator = emulators.train(
            spectra, init="mgb-base", out=run, resume=run.exists(), steps=STEPS,
            precision="bf16", compile=True, learning_rate=1.5e-3, matrix_rate=7e-3,
            validate_every=2_000,
        )
    return emulators.evaluate(emulator, reference)


def draw(found: dict[int, dict[str, float]], path: Path) -> None:
    """Plot MAE and MaxAE against the number of spectra."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), constrained_layout=True)
    numbers = np.array(list(found))
    for axis, name in zip(axes, ("mae", "maxae"), strict=True):
        axis.loglog(numbers, [found[n][name] for n in found], "o-", color="#0072b2")
        axis.set_xlabel("training spectra")
        axis.set_ylabel({"mae": "MAE", "maxae": "MaxAE"}[name])
        axis.grid(which="both", alpha=0.3)
    figure.suptitle(f"mgb-base fine-tuned on FGK stars, {STEPS} steps")
    figure.savefig(path, dpi=130)


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("runs", type=click.Path(file_okay=False, path_type=Path))
def main(grid: Path, reference: Path, runs: Path) -> None:
    """Train and measure for each number."""
    found = {n: error(grid, reference, n, runs / str(n)) for n in NUMBERS}
    for number, measures in found.items():
        print(f"{number:6} MAE {measures['mae']:.4f}  MaxAE {measures['maxae']:.4f}")
    draw(found, IMAGES / "learning-curve.png")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "learning-curve.json").write_text(
        json.dumps({"steps": STEPS, "measures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
