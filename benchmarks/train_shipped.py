"""Train what ships, and the MLP it is compared with: ``python -m benchmarks.train_shipped GRIDS``.

GRIDS is the folder of the reference grids.  Runs are resumable: a killed one goes on from
its last checkpoint in ``runs/``.  With ``--only mlp`` (or base, fgk) one of the three.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch

import emulators

RESULTS = Path(__file__).parent / "results"


def base(grids: Path, runs: Path) -> emulators.Emulator:
    """Pretrain at fixed Teff and log g; the labels' scale spans all three grids."""
    opened = [emulators.Grid(grids / f"mgb-{k}.h5") for k in ("pretrain", "target", "fgk")]
    return emulators.train(
        opened[0], out=runs / "mgb-base", resume=True, name="mgb-base",
        labels=emulators.LabelSet.spanning(*(g.label_set for g in opened)),
        steps=22_000, precision="bf16", compile=True,
    )


def fgk(grids: Path, runs: Path) -> emulators.Emulator:
    """Fine-tune all weights on the FGK grid."""
    return emulators.train(
        grids / "mgb-fgk.h5", init=runs / "mgb-base" / "best", out=runs / "mgb-fgk",
        resume=True, name="mgb-fgk", steps=20_000, learning_rate=8e-4, precision="bf16",
        compile=True,
    )


def mlp(grids: Path, runs: Path) -> emulators.Emulator:
    """The Payne's MLP on the same spectra, to its own best validation error."""
    return emulators.train(
        grids / "mgb-fgk.h5", network="mlp", out=runs / "mlp", resume=True, name="mlp-fgk",
        steps=20_000, batch=64, learning_rate=1e-3, weight_decay=1e-4, validate_every=500,
    )


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--only", type=click.Choice(["base", "fgk", "mlp"]))
def main(grids: Path, runs: Path, only: str | None) -> None:
    """Train, evaluate on the validation split and write the metrics."""
    for name, train in (("base", base), ("fgk", fgk), ("mlp", mlp)):
        if only in (None, name):
            emulator = train(grids, runs)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"validation-{name}.json").write_text(json.dumps({
                "emulator": emulator.identity, "network": emulator.network.config,
                "grid": emulator.provenance["trained_on"]["grid"],
                "recipe": emulator.provenance["recipe"],
                "threads": torch.get_num_threads(), "metrics": emulator.metrics,
            }, indent=1) + "\n")
            run = runs / ("mlp" if name == "mlp" else f"mgb-{name}")
            shutil.copy(run / "log.csv", RESULTS / f"training-{name}.csv")
            click.echo(f"{name}: {emulator!r}")


if __name__ == "__main__":
    main()
