"""Twenty spectra of each of the paper's grids: ``python -m benchmarks.paper_grids OUT``.

Makes the first twenty samples of ``paper-pretrain`` and ``paper-target`` (4000-5000 Å, 22,315
pixels) into the folder OUT and draws them to ``docs/images/paper-grids.png``.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

import emulators

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = ("paper-pretrain", "paper-target")
CLOSE = (4225.0, 4235.0)


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", default=1, show_default=True)
def main(out: Path, workers: int) -> None:
    """Make and draw."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 10), width_ratios=[2, 1], sharey=True,
                                constrained_layout=True)
    for name, (wide, close) in zip(NAMES, axes, strict=True):
        path = out / f"{name}.h5"
        grid = (emulators.Grid(path) if path.exists() else
                emulators.synthesize(name, path, number=20, workers=workers, shard=1))
        flux, teff = grid.flux(np.arange(grid.n_spec)), grid.labels[:, 0]
        order = np.argsort(teff, kind="stable")
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, grid.n_spec))
        for place, (row, colour) in enumerate(zip(order, colours, strict=True)):
            for axis in (wide, close):
                axis.plot(grid.wavelength, flux[row] + place, color=colour, lw=0.4,
                          rasterized=True)
            close.text(CLOSE[1] + 0.1, place + 0.7, f"{teff[row]:.0f} K, log g "
                       f"{grid.labels[row, 1]:.2f}", fontsize=6)
        wide.set_title(f"{name}: {grid.n_spec} spectra, {grid.n_pix} pixels", loc="left",
                       fontsize=10)
        wide.set_xlim(4000, 5000)
        close.set_xlim(*CLOSE)
        wide.set_ylabel("normalised flux + number")
    for axis in axes[1]:
        axis.set_xlabel("wavelength in air, Å")
    figure.savefig(IMAGES / "paper-grids.png", dpi=110)


if __name__ == "__main__":
    main()
