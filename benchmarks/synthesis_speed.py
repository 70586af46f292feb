"""How fast grids are made: ``python -m benchmarks.synthesis_speed``, on a quiet machine.

Makes the first samples of ``mgb-fgk`` in this process and on two workers, starting and the
selection of lines apart, and splits the time of a spectrum into what every window of a star
shares (chemistry, continuum) and what each pixel takes.  Writes
``benchmarks/results/synthesis-speed.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from emulators.synthesis.making import Maker
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.synthesize import prepare
from emulators.workers import Workers

RESULTS = Path(__file__).parent / "results"
NAME = "mgb-fgk"


def seconds(maker: Maker, number: int, workers: int) -> float:
    """Return the seconds per spectrum, all workers warm."""
    tasks = [np.arange(i, i + 4) for i in range(0, number, 4)]
    with Workers(maker, workers) as pool:
        list(pool.make([np.arange(1) for _ in range(4 * workers)]))
        start = time.perf_counter()
        list(pool.make(tasks))
        return (time.perf_counter() - start) / number


@click.command(help=__doc__)
@click.option("--number", default=96, show_default=True, help="Spectra, a multiple of 4.")
def main(number: int) -> None:
    """Measure."""
    recipe = GridRecipe.read(NAME)
    start = time.perf_counter()
    maker = prepare(recipe)
    found: dict[str, Any] = {"recipe": NAME, "number": number, "n_pix": len(recipe.wavelength),
                             "n_line": len(maker.engine.lines),
                             "selection_s": time.perf_counter() - start}
    found["one_s"] = seconds(maker, number, 1)
    found["two_s"] = seconds(maker, number, 2)
    found["gain"] = found["one_s"] / found["two_s"]
    wave = {**recipe.settings["wavelength"], "resolution": 1000}
    few = GridRecipe.from_dict({**recipe.settings, **recipe.labels, "wavelength": wave})
    found["shared_s"] = seconds(Maker(few, maker.engine, maker.models), number, 1)
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "synthesis-speed.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
