"""The tutorial of docs/surveys.md: a thousand stars, killed halfway, resumed, and looked at.

``python -m benchmarks.survey_tutorial GRID EMULATOR``: mock stars as in `benchmarks.survey_load`
are fitted by ``stellarfit survey run``, which is killed when half of its shards are there, and run
again.  Writes ``docs/images/survey.png``: temperatures and gravities of the catalogue, and fitted
labels against the true ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.survey_faults import progress
from benchmarks.survey_load import FREE, RESOLUTION, make
from stellarfit.survey.running import merge, status

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "survey.png"
SHARD = 64
SHOWN = {"teff": "Teff (K)", "logg": "log g", "fe_h": "[Fe/H]", "mg_fe": "[Mg/Fe]",
         "rv": "rv (km/s)"}


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False))
@click.argument("emulator")
@click.option("--stars", default=1000, show_default=True)
@click.option("--folder", default=Path("out") / "survey-tutorial",
              type=click.Path(path_type=Path), show_default=True)
def main(grid: str, emulator: str, stars: int, folder: Path) -> None:
    """Make the stars, run, kill, run again, merge, draw."""
    truths = make(grid, folder / "spectra", stars)
    survey = folder / "survey"
    words = [sys.executable, "-m", "stellarfit", "survey", "run", str(folder / "spectra"),
             "--out", str(survey), "--emulator", emulator, "--resolution", f"{RESOLUTION:g}",
             "--free", ",".join(FREE), "--continuum", "4", "--single", "--shard", str(SHARD)]
    first = subprocess.Popen(words, start_new_session=True)
    while first.poll() is None and progress(survey) < stars // SHARD // 2:
        time.sleep(0.1)
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    print(f"killed: {status(survey)}")
    subprocess.run(words, check=True)
    table = merge(survey, folder / "catalogue.fits")
    print(f"{len(table)} rows, {int((table['status'] != 0).sum())} without a fit")
    # The files that are missing were never found in the folder: rows go by their names.
    numbers = [int(Path(f).stem.removeprefix("star")) for f in table["file"]]
    draw(table, [truths[i] for i in numbers])


def draw(table: Any, truths: list[dict[str, Any]]) -> None:
    """Draw the catalogue: a Kiel diagram, and labels against the truth."""
    from matplotlib.figure import Figure

    good = (np.asarray(table["status"]) == 0) & ~np.asarray(table["flag_bad"])
    figure = Figure(figsize=(12.0, 7.2), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    points = panels[0].scatter(table["teff"][good], table["logg"][good], c=table["fe_h"][good],
                               s=6, cmap="viridis")
    panels[0].set(xlabel=SHOWN["teff"], ylabel=SHOWN["logg"], title=f"{good.sum()} stars")
    panels[0].invert_xaxis()
    panels[0].invert_yaxis()
    figure.colorbar(points, ax=panels[0], label=SHOWN["fe_h"])
    for panel, (name, text) in zip(panels[1:], SHOWN.items(), strict=True):
        true = np.array([t[name] for t in truths])[good]
        panel.errorbar(true, table[name][good], np.minimum(table[f"e_{name}"][good],
                                                           np.ptp(true)),
                       fmt=".", ms=3, lw=0.5, color="0.2", ecolor="0.7")
        panel.axline((true.min(), true.min()), slope=1.0, color="C1", lw=1.0, zorder=3)
        low, high = true.min() - 0.1 * np.ptp(true), true.max() + 0.1 * np.ptp(true)
        panel.set(xlabel=f"{text}, true", ylabel=f"{text}, fitted", xlim=(low, high),
                  ylim=(low, high))
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
