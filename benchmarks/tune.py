"""The other families, tuned fairly: ``python -m benchmarks.tune GRIDS``.

Trains The Payne's MLP, a wide and deep one and the CNN on 900 spectra of ``mgb-target.h5``,
adapters and all weights of ``mgb-base`` on 270, with each of some optimisers, rates, decays and
sizes, and compares them on 100 and 30 more that are held back: the choices of
``benchmarks.paper`` at N = 1000 and 300.  The validation spectra take no part.  One JSON file
for all in ``benchmarks/results``; what is in it is not done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

import emulators
from benchmarks.paper import LORA, TRANSFORMER, chosen, common_scale
from emulators.metrics import evaluate

RESULT = Path(__file__).parent / "results" / "tuning.json"
ADAMW = {"optimiser": "adamw"}
WIDE, MEDIUM = {"hidden": 1024, "layers": 4}, {"hidden": 512, "layers": 4}
#: optimiser and rates, weight decay and size of the network
TRIALS: dict[str, list[dict[str, Any]]] = {
    "mlp": [{"steps": 3_000, "batch": 64, **how} for how in (
        {**ADAMW, "learning_rate": 3e-4, "weight_decay": 0.01},
        {**ADAMW, "learning_rate": 1e-3, "weight_decay": 0.01},
        {**ADAMW, "learning_rate": 3e-3, "weight_decay": 0.01},
        {**ADAMW, "learning_rate": 1e-3, "weight_decay": 0.3},
        {"optimiser": "muon", "weight_decay": 0.01},
        {"optimiser": "muon", "weight_decay": 0.3},
    )],
    "mlp-wide": [{"steps": 2_000, "batch": 64, **how} for how in (
        {**ADAMW, "learning_rate": 3e-4, "weight_decay": 0.01, "options": WIDE},
        {**ADAMW, "learning_rate": 1e-3, "weight_decay": 0.01, "options": WIDE},
        {**ADAMW, "learning_rate": 1e-3, "weight_decay": 0.3, "options": WIDE},
        {"optimiser": "muon", "weight_decay": 0.01, "options": MEDIUM},
        {"optimiser": "muon", "weight_decay": 0.3, "options": MEDIUM},
        {"optimiser": "muon", "weight_decay": 0.01, "options": MEDIUM, "matrix_rate": 3e-2},
    )],
    "cnn": [{"steps": 2_000, "batch": 16, "weight_decay": 0.01, **how} for how in (
        {**ADAMW, "learning_rate": 3e-4}, {**ADAMW, "learning_rate": 1e-3},
        {**ADAMW, "learning_rate": 3e-3}, {"optimiser": "muon"},
    )],
    "full": [{"steps": 1_500, **TRANSFORMER, **how} for how in (
        {"learning_rate": 1e-3, "matrix_rate": 5e-3},
        {"learning_rate": 4e-4, "matrix_rate": 2e-3},
        {"learning_rate": 2e-4, "matrix_rate": 7e-4},
        {"learning_rate": 2e-3, "matrix_rate": 1e-2},
    )],
    "lora": [{"steps": 1_500, **TRANSFORMER, "mode": "lora", "lora": LORA, **how} for how in (
        {"matrix_rate": 5e-3}, {"matrix_rate": 1.5e-2}, {"matrix_rate": 3e-2},
        {**ADAMW, "learning_rate": 3e-3},
    )],
}


def trial(grids: Path, base: str, family: str, how: dict[str, Any]) -> dict[str, Any]:
    """Train one and return its best error on the spectra held back."""
    tuning = family in ("full", "lora")
    grid = chosen(emulators.Grid(grids / "mgb-target.h5"), 300 if tuning else 1000, 0)
    start = {"init": base} if tuning else {
        "network": "cnn" if family == "cnn" else "mlp", "labels": common_scale(grids)}
    emulator = emulators.train(grid, **{"validate_every": 250, **start, **how})
    return {"family": family, "settings": how, "held_back": evaluate(emulator, grid)}


def table() -> str:
    """Return what is done as Markdown, the best of each family first."""
    done = json.loads(RESULT.read_text())
    lines = ["| family | steps | optimiser | rate | of matrices | decay | size | MSE | MAE |",
             "|" + "---|" * 9]
    order = list(TRIALS)
    for d in sorted(done, key=lambda d: (order.index(d["family"]), d["held_back"]["mse"])):
        full = emulators.Recipe(**{k: v for k, v in d["settings"].items()
                                   if k in emulators.Recipe.__dataclass_fields__})
        size = d["settings"].get("options", {})
        lines.append(
            f"| {d['family']} | {full.steps} | {full.optimiser} | {full.learning_rate:g} | "
            f"{full.matrix_rate if full.optimiser == 'muon' else ''} | {full.weight_decay:g} | "
            f"{'{layers}×{hidden}'.format(**size) if size else ''} | "
            f"{d['held_back']['mse']:.2e} | {d['held_back']['mae']:.4f} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--base", default="mgb-base", show_default=True, help="The pretrained emulator.")
def main(grids: Path, base: str) -> None:
    """Do the trials that are missing, print the table."""
    done = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for family, ways in TRIALS.items():
        for how in ways:
            if any(d["family"] == family and d["settings"] == how for d in done):
                continue
            done.append(trial(grids, base, family, how) | {"threads": torch.get_num_threads()})
            RESULT.write_text(json.dumps(done, indent=1) + "\n")
    click.echo(table())


if __name__ == "__main__":
    main()
