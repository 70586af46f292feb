"""Where LoRA stops: ``python -m benchmarks.lora_plateau GRIDS``.

The paper finds that LoRA no longer gains above some 1000 spectra where full fine-tuning does.
Is it the rank, the choice of layers, or what is left frozen?  Each variant adapts the
pretrained base to all 2880 training spectra of ``mgb-target.h5``, as in ``benchmarks.paper``
but in fewer steps; so does full fine-tuning, for comparison.  One JSON file per variant in
``benchmarks/results/lora``, and a table on the screen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import emulators
from benchmarks.paper import ADAPTING, TUNING, chosen, seconds_of

RESULTS = Path(__file__).parent / "results" / "lora"
BLOCKS = ["query", "key", "value", "output", "up", "down"]
EDGES = ["embed_wavelength", "embed_labels.mix", "head.0"]
VARIANTS: dict[str, dict[str, Any]] = {
    "rank 16": {"rank": 16, "targets": BLOCKS},
    "rank 64": {"rank": 64, "targets": BLOCKS},
    "rank 16, embeddings and head too": {"rank": 16, "targets": BLOCKS + EDGES},
    "rank 16, embeddings, norms and head unfrozen": {
        "rank": 16, "targets": BLOCKS, "unfreeze": ["*norm*", "head.*", "embed_*"]},
}
#: what they are to reach
FULL = "all weights"
N, STEPS = 2880, 2_000


def run(grids: Path, runs: Path, base: str, name: str) -> dict[str, Any]:
    """Train and judge one variant."""
    grid = chosen(emulators.Grid(grids / "mgb-target.h5"), N, 0)
    folder = runs / slug(name)
    source = emulators.load(base)
    how = TUNING if name == FULL else {**ADAPTING, "lora": VARIANTS[name]}
    emulator = emulators.train(grid, init=source, steps=STEPS, out=folder, resume=True, **how)
    stored = next((folder / ("best" if name == FULL else "adapter")).glob("*.safetensors"))
    return {"variant": name, "lora": VARIANTS.get(name), "n": N, "base": source.sha256,
            "steps": STEPS, "metrics": emulators.evaluate(emulator, grid, split="test"),
            "bytes": stored.stat().st_size, "seconds": round(seconds_of(folder), 1)}


def slug(name: str) -> str:
    """Return a variant's name as one of a file."""
    return name.replace(",", "").replace(" ", "-")


def table() -> str:
    """Return what is done as Markdown."""
    lines = [f"| what is learnt, N = {N}, {STEPS} steps | RMSE | MAE | MaxAE | kB |",
             "|---|---|---|---|---|"]
    for name in (*VARIANTS, FULL):
        path = RESULTS / f"{slug(name)}.json"
        if path.exists():
            result = json.loads(path.read_text())
            m = result["metrics"]
            lines.append(f"| {name} | {m['mse'] ** 0.5:.4f} | {m['mae']:.4f} | {m['maxae']:.4f} "
                         f"| {result['bytes'] / 1e3:.0f} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/lora"))
@click.option("--base", default="mgb-base", show_default=True)
@click.option("--only", type=click.Choice([*VARIANTS, FULL]), multiple=True)
def main(grids: Path, runs: Path, base: str, only: tuple[str, ...]) -> None:
    """Do the variants that are missing, print the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in only or (*VARIANTS, FULL):
        path = RESULTS / f"{slug(name)}.json"
        if not path.exists():
            path.write_text(json.dumps(run(grids, runs, base, name), indent=1) + "\n")
    click.echo(table())


if __name__ == "__main__":
    main()
