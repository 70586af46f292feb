"""The tutorial's numbers: ``python -m benchmarks.fine_tune GRIDS``.

Adapts ``mgb-base`` (or ``--base``) to 100 spectra of ``mgb-target.h5``, by LoRA and with all
weights, and trains The Payne's MLP on the same 100 spectra; judges all three on the
validation spectra.  Ten of the hundred are held back to choose the best state.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

import emulators
from benchmarks.paper import chosen

RESULT = Path(__file__).parent / "results" / "fine-tune.json"
STEPS = 1_000
WAYS = {
    "LoRA": {"mode": "lora", "lora": {"rank": 16}, "matrix_rate": 1.5e-2},
    "all weights": {"learning_rate": 1e-3, "matrix_rate": 5e-3},
    "MLP": {"network": "mlp", "steps": 4_000, "batch": 64},
}


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--base", default="mgb-base", show_default=True)
def main(grids: Path, base: str) -> None:
    """Train and judge the three."""
    source = emulators.load(base)
    result = {"base": source.identity, "n": 100, "threads": torch.get_num_threads(), "ways": {}}
    for name, how in WAYS.items():
        grid = chosen(emulators.Grid(grids / "mgb-target.h5"), 100, 0)
        settings = {"steps": STEPS, "validate_every": 250, **how}
        if name != "MLP":
            settings["init"] = source
        clock = time.perf_counter()
        emulator = emulators.train(grid, **settings)
        seconds = time.perf_counter() - clock
        result["ways"][name] = {"seconds": round(seconds),
                                "metrics": emulators.evaluate(emulator, grid, split="test")}
        click.echo(f"{name}: MAE {result['ways'][name]['metrics']['mae']:.4f}, {seconds:.0f} s")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
