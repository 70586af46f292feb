"""The paper's experiment on our grids: ``python -m benchmarks.paper GRIDS``.

Every family of emulators is trained on 100, 300, 1000 and all 2880 training spectra of
``mgb-target.h5`` and judged by its validation split, which no training sees.  A tenth of
the training spectra (10 at least) is held back from each training to choose among the
states of one run, and was all that the settings below were tuned on.  The pretrained
families start from a transformer trained on ``mgb-pretrain.h5`` (fixed Teff and log g).

One JSON file per run in ``benchmarks/results/paper``; a run whose file is there is skipped (one
that was made with other settings or another base is an error), one that was killed goes on from
its last checkpoint in ``--runs``.
``python -m benchmarks.paper_figures GRIDS`` draws what they say.
"""

from __future__ import annotations

import csv
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import emulators
from emulators.files import atomic_write
from emulators.metrics import emulate

RESULTS = Path(__file__).parent / "results" / "paper"
SIZES = (100, 300, 1000, 2880)
TEST, UNUSED = 2, 255
#: the size, and the place among the validation spectra, of the spectrum that is drawn
SHOWN_SIZE, SHOWN = 1000, 0

#: the best of ``benchmarks.tune``; they are learnt by heart long before the end
MLP = {"steps": 4_000, "batch": 64, "validate_every": 250, "weight_decay": 0.01}
WIDE = {**MLP, "options": {"hidden": 512, "layers": 4}}
CNN = {**MLP, "batch": 16}
CNN_STEPS = {100: 1_000, 300: 2_000, 1000: 4_000, 2880: 4_000}
#: the same for all transformers: the fewer the spectra, the sooner they are learnt by heart
STEPS = {100: 2_000, 300: 4_000, 1000: 8_000, 2880: 8_000}
TRANSFORMER = {"precision": "bf16", "compile": True, "validate_every": 500}
TUNING = {**TRANSFORMER, "learning_rate": 1e-3, "matrix_rate": 5e-3}
LORA = {"rank": 16, "targets": ["query", "key", "value", "output", "up", "down"]}
ADAPTING = {**TUNING, "mode": "lora", "matrix_rate": 1.5e-2}
#: tokens made of all labels together, as in the paper
MIXED = {"tokens": 16, "heads": 4}
MIXED_BASE, MIXED_STEPS = "base-mixed", 4_000


def settings(family: str, n: int, base: str) -> dict[str, Any]:
    """Return how a family is trained on n spectra."""
    families: dict[str, dict[str, Any]] = {
        "mlp": {"network": "mlp", **MLP},
        "mlp-wide": {"network": "mlp", **WIDE},
        "cnn": {"network": "cnn", **CNN, "steps": CNN_STEPS[n]},
        "cannon": {"network": "cannon"},
        "transformer": {"steps": STEPS[n], **TRANSFORMER},
        "full": {"init": base, "steps": STEPS[n], **TUNING},
        "lora": {"init": base, "lora": LORA, "steps": STEPS[n], **ADAPTING},
        "transformer-mixed": {"steps": MIXED_STEPS, **TRANSFORMER, "options": MIXED},
        "full-mixed": {"init": MIXED_BASE, "steps": MIXED_STEPS, **TUNING},
    }
    return families[family]


#: the numbers of spectra on which each family is trained
FAMILIES = {
    **dict.fromkeys(("mlp", "mlp-wide", "cnn", "cannon", "transformer", "full", "lora"), SIZES),
    # the paper's way to make tokens, at the N of the claims
    **dict.fromkeys(("transformer-mixed", "full-mixed"), (SHOWN_SIZE,)),
}


def chosen(grid: emulators.Grid, n: int, seed: int) -> emulators.Grid:
    """Let a grid train on nine tenths of n spectra and choose by the last tenth."""
    order = np.random.default_rng([7, seed]).permutation(grid.rows("train"))[:n]
    held = max(10, n // 10)
    split = np.full(grid.n_spec, UNUSED, dtype=np.uint8)
    split[grid.rows("validation")] = TEST
    split[order[:held]], split[order[held:]] = 1, 0
    grid.split = split
    return grid


def common_scale(grids: Path) -> emulators.LabelSet:
    """Return the labels with a scale that suits the reference grids, as the base has it."""
    return emulators.LabelSet.spanning(*(
        emulators.Grid(grids / f"mgb-{k}.h5").label_set for k in ("pretrain", "target", "fgk")
    ))


def mixed_base(grids: Path, runs: Path) -> emulators.Emulator:
    """Pretrain the transformer with tokens of all labels; `mgb-base` has one per label."""
    return emulators.train(
        grids / "mgb-pretrain.h5", out=runs / MIXED_BASE, resume=True, name=MIXED_BASE,
        labels=common_scale(grids), options=MIXED, steps=MIXED_STEPS, **TRANSFORMER,
    )


def run(grids: Path, runs: Path, base: str, family: str, n: int, seed: int) -> dict[str, Any]:
    """Train and judge one emulator."""
    grid, scale = chosen(emulators.Grid(grids / "mgb-target.h5"), n, seed), common_scale(grids)
    how = settings(family, n, base)
    if how.get("init") == MIXED_BASE:
        how["init"] = mixed_base(grids, runs)
    folder = runs / f"{family}-{n}-{seed}"
    emulator = emulators.train(
        grid, out=folder, resume=True, name=f"{family}-{n}", seed=seed,
        labels=None if "init" in how else scale, **how,
    )
    result = {
        "family": family, "n": n, "seed": seed, "grid": "mgb-target.h5",
        "metrics": emulators.evaluate(emulator, grid, split="test"),
        "held_back": emulator.metrics, "seconds": round(seconds_of(folder), 1),
        "settings": recorded(how),
        "weights": sum(p.numel() for p in emulator.network.parameters()),
        "base": emulator.provenance["init"] and emulator.provenance["init"]["sha256"],
        "threads": torch.get_num_threads(), "version": version("stellarfit"),
    }
    if n == SHOWN_SIZE:
        row = np.flatnonzero(grid.split == TEST)[[SHOWN]]
        emulated = emulate(emulator, grid, row)[0].astype(float).round(4)
        result["spectrum"] = {"row": int(row[0]), "emulated": emulated.tolist()}
    return result


def recorded(how: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as its result holds them."""
    return {k: v for k, v in how.items() if k != "init"}


def done(path: Path, how: dict[str, Any], base: str) -> bool:
    """Return whether a run's result is there; raise ClickException if it is another run's."""
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    if result["settings"] != recorded(how):
        raise click.ClickException(f"'{path}' was made with other settings: remove it to run again")
    if how.get("init") == base and result["base"] != emulators.load(base).sha256:
        raise click.ClickException(f"'{path}' starts from another base than '{base}': remove it "
                                   f"to run again")
    return True


def seconds_of(folder: Path) -> float:
    """Return how long a run trained, from its log: interruptions do not count."""
    with open(folder / "log.csv", newline="") as stream:
        rows = [(int(r["step"]), float(r["seconds_per_step"])) for r in csv.DictReader(stream)]
    before = [0, *(step for step, _ in rows[:-1])]
    return sum((step - b) * pace for (step, pace), b in zip(rows, before, strict=True))


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/paper"))
@click.option("--base", default="mgb-base", show_default=True, help="The pretrained emulator.")
@click.option("--family", type=click.Choice(list(FAMILIES)), multiple=True)
@click.option("--n", "sizes", type=click.Choice([str(n) for n in SIZES]), multiple=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(
    grids: Path, runs: Path, base: str, family: tuple[str, ...], sizes: tuple[str, ...], seed: int
) -> None:
    """Do the runs that are missing."""
    for name in family or FAMILIES:
        for n in [int(s) for s in sizes] or FAMILIES[name]:
            path = RESULTS / f"{name}-{n}-{seed}.json"
            if done(path, settings(name, n, base), base):
                continue
            result = run(grids, runs, base, name, n, seed)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(result) + "\n")
            click.echo(f"{name} {n}: MAE {result['metrics']['mae']:.4f} "
                       f"MaxAE {result['metrics']['maxae']:.4f} in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
