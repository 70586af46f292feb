"""The error of ``mgb-fgk`` against the number of its spectra.

``python -m benchmarks.learning_curve GRID REFERENCE RUNS``: REFERENCE is the grid ``mgb-fgk.h5``
that others made, GRID the same joined with new spectra of its recipe (``data/trainings/
two-cores.toml`` says how).  Fine-tunes ``mgb-base`` on the first N training spectra of GRID, the
same steps for each N, and measures on the validation spectra of REFERENCE, which also chose the
best state of each run.  A run in RUNS that was killed goes on, one that is finished stays.
Writes ``benchmarks/results/learning-curve.json`` and ``docs/images/learning-curve.png``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

import emulators

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
NUMBERS = (300, 600, 1200, 2400, 4800)
STEPS = 4_000


def first_spectra(grid: Path, number: int) -> emulators.Grid:
    """Open a grid to train on its first `number` spectra for training."""
    spectra = emulators.Grid(grid)
    rows = spectra.rows("train")
    if len(rows) < number:
        raise click.UsageError(f"'{grid}' has {len(rows)} training spectra, not {number}")
    spectra.split[rows[number:]] = 9
    return spectra


def error(grid: Path, reference: Path, number: int, run: Path) -> dict[str, float]:
    """Return the measures on the reference after training with so many spectra."""
    emulator = emulators.train(
        first_spectra(grid, number), init="mgb-base", out=run, resume=run.exists(), steps=STEPS,
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
        axis.semilogx(numbers, [found[n][name] for n in found], "o-", color="#0072b2")
        axis.set_xticks(numbers, [str(n) for n in numbers])
        axis.minorticks_off()
        axis.set_ylim(bottom=0.0)
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
