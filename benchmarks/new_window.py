"""Does pretraining help at wavelengths never seen?  ``python -m benchmarks.new_window GRID RUNS``.

GRID is made by ``emulators synthesize halpha-fgk -o GRID --number 1700``: 6478-6737 Å, where
neither ``mgb-base`` nor ``mgb-fgk`` (5150-5300 Å) saw a pixel.  Trains the same network from random
weights, from ``mgb-base`` and from ``mgb-fgk`` on the first N spectra, the same steps each, at the
rates that were best for random weights and for fine-tuning at Mg b.  Measures on the validation
spectra, which also chose the best of each run's states.  A run in RUNS that was killed goes on,
one that is finished stays.  Writes ``benchmarks/results/new-window.json`` and
``docs/images/new-window.png``.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click

import emulators
from benchmarks.learning_curve import first_spectra

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
NUMBERS = (300, 1500)
STEPS = 1_500
FINE = {"learning_rate": 1.5e-3, "matrix_rate": 7e-3}
STARTS: dict[str, dict[str, Any]] = {
    "random weights": {},
    "mgb-base": {"init": "mgb-base", **FINE},
    "mgb-fgk": {"init": "mgb-fgk", **FINE},
}


def draw(curves: dict[tuple[str, int], list[dict[str, str]]], path: Path) -> None:
    """Plot validation MAE against steps, a panel for each number of spectra."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(NUMBERS), figsize=(8, 3.5), sharey=True,
                                constrained_layout=True)
    for axis, number in zip(axes, NUMBERS, strict=True):
        for (start, n), log in curves.items():
            if n == number:
                axis.semilogy([int(row["step"]) for row in log], [float(r["mae"]) for r in log],
                              "o-", ms=3, label=start)
        axis.set(title=f"{number} spectra", xlabel="step")
        axis.grid(which="both", alpha=0.3)
    axes[0].set_ylabel("validation MAE")
    axes[0].legend(title="start from")
    figure.savefig(path, dpi=130)


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("runs", type=click.Path(file_okay=False, path_type=Path))
def main(grid: Path, runs: Path) -> None:
    """Train and measure each start on each number of spectra."""
    found: list[dict[str, Any]] = []
    curves = {}
    for number in NUMBERS:
        for start, how in STARTS.items():
            run = runs / f"{start.replace(' ', '-')}-{number}"
            emulator = emulators.train(
                first_spectra(grid, number), out=run, resume=run.exists(), steps=STEPS,
                precision="bf16", compile=True, validate_every=250, **how)
            found.append({"start": start, "spectra": number, **emulator.metrics})
            print(f"{number:6} {start:16} MAE {emulator.metrics['mae']:.4f}  "
                  f"MaxAE {emulator.metrics['maxae']:.4f}")
            with open(run / "log.csv", newline="") as stream:
                curves[start, number] = list(csv.DictReader(stream))
    draw(curves, IMAGES / "new-window.png")
    (RESULTS / "new-window.json").write_text(
        json.dumps({"steps": STEPS, "measures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
