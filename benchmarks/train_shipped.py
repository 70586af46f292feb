"""Train and judge what ships: ``python -m benchmarks.train_shipped GRIDS``.

Does the runs of ``data/trainings/two-cores.toml`` (which says how to make the grids) in ``--runs``
(a killed one goes on from its last checkpoint, a finished one stays), and the MLP of The Payne on
the FGK spectra of the reference grid; measures the emulators on the validation spectra of their
grids, ``mgb-fgk`` on those of the reference grid; and writes them with their model cards and error
models to ``data/emulators``, the numbers to ``benchmarks/results``, the cards to ``docs/cards``.
``--only mgb-fgk`` in a new folder starts from the ``mgb-base`` that ships, ``--only halpha-fgk``
from the ``mgb-fgk``.  Use one thread: ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import torch

import emulators
from emulators.config import Config

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "emulators"
CARDS = ROOT / "docs" / "cards"
RECIPE = ROOT / "data" / "trainings" / "two-cores.toml"
MEASURED_ON = {"mgb-base": "mgb-pretrain.h5", "mgb-fgk": "mgb-fgk.h5",
               "halpha-fgk": "halpha-fgk.h5"}
#: what the cards say beyond numbers
LIMITS = {
    "mgb-base": [
        "Teff 5000 K, log g 4.5 and vmic 0 only: a start for fine-tuning, not for fitting stars.",
        "The temperature structure is that of the solar composition, whatever the abundances.",
    ],
    "mgb-fgk": [
        "LTE, plane-parallel, one-dimensional synthesis with the line data of its grid.",
        "Largest errors in cool, metal-rich giants, where molecular lines overlap.",
        "Between its training pixels (1e-5 in ln wavelength) it was not held to the synthesis.",
        "The validation spectra also chose the best state of the training.",
        "The whole element in each of its isotopes' lines, as in the reference grid: lines of "
        "neodymium, gadolinium and other elements of several isotopes are too strong.",
    ],
    "halpha-fgk": [
        "LTE, plane-parallel, one-dimensional synthesis: the core of H-alpha, which forms in the "
        "chromosphere, and lithium in metal-poor stars are off; the wings of H-alpha are fine.",
        "No lines of titanium oxide, which show below about 4200 K.",
        "Between its training pixels (1e-5 in ln wavelength) it was not held to the synthesis.",
        "The validation spectra also chose the best state of the training.",
    ],
}


def mlp(grids: Path, runs: Path) -> emulators.Emulator:
    """The Payne's MLP on the spectra of the reference grid, to its own best validation error.

    With Muon, the better optimiser on ``mgb-target.h5``, it comes out worse here.
    """
    return emulators.train(
        grids / "mgb-fgk.h5", network="mlp", out=runs / "mlp-fgk", resume=True,
        name="mlp-fgk", steps=20_000, batch=64, optimiser="adamw", learning_rate=1e-3,
        weight_decay=1e-4, validate_every=500,
    )


def record(emulator: emulators.Emulator, run: Path) -> None:
    """Write the measures of a training and its log."""
    RESULTS.mkdir(exist_ok=True)
    kind = emulator.name.removeprefix("mgb-").removesuffix("-fgk")
    (RESULTS / f"validation-{kind}.json").write_text(json.dumps({
        "emulator": emulator.identity, "network": emulator.network.config,
        "grid": emulator.provenance["trained_on"]["grid"],
        "recipe": emulator.provenance["recipe"],
        "threads": torch.get_num_threads(), "metrics": emulator.metrics,
    }, indent=1) + "\n")
    shutil.copy(run / "log.csv", RESULTS / f"training-{kind}.csv")


def ship(emulator: emulators.Emulator, grid: emulators.Grid) -> None:
    """Measure an emulator and put it where the package finds it."""
    emulator.card = emulators.card(emulator, grid) | {"limits": LIMITS[emulator.name]}
    emulator.errors = emulators.measure_errors(emulator, grid)
    emulator.save(SHIPPED / emulator.name)
    (CARDS / f"{emulator.name}.md").write_text(in_words(emulator))


def in_words(emulator: emulators.Emulator, written_by: str = "benchmarks.train_shipped") -> str:
    """Return a model card as a page to read."""
    card, history = emulator.card, emulator.provenance
    low, high = emulator.wavelength_range
    grid, chain = history["trained_on"], []
    while history:
        grid_of, recipe = history["trained_on"], history["recipe"]
        chain.append(f"{grid_of['grid']} ({grid_of['n_train']} spectra, {recipe['steps']} steps "
                     f"of {recipe['batch']})")
        history = (history.get("init") or {}).get("provenance")
    lines = [
        f"# {emulator.name}", "",
        f"{low:.0f}-{high:.0f} Å ({emulator.medium}), {len(emulator.labels)} labels, "
        f"{sum(p.numel() for p in emulator.network.parameters())} weights, "
        f"SHA-256 `{emulator.sha256[:16]}`.", "",
        f"**Training.** {', then '.join(reversed(chain))}. "
        f"Synthesis: {made_by(grid['made_by'])}.", "",
        f"**Validation.** {card['n_spectra']} spectra of `{card['grid']}`; flux errors in units "
        "of the continuum.", "",
        *_table([card["overall"]]), "",
    ]
    for name, rows in card["bins"].items():
        if rows:
            lines += [f"By {name}:", "", *_table(rows), ""]
    lines += ["By depth (cores: flux below 0.5; wings: to 0.95; continuum above):", "",
              *_table([{"where": k, **v} for k, v in card["depths"].items()]), ""]
    slope, relative = card["differences"]["slope"], card["differences"]["relative"]
    ripple = ", ".join(f"{v:.1e} ({k})" for k, v in card["smoothness"].items())
    lines += [
        "**Derivatives.** The mean derivative with respect to each label, by linear regression "
        "of the true and of the emulated fluxes on the labels: `effect` is its rms over pixels "
        "(flux per half the label's range), `relative` the emulator's rms error in it, `slope` "
        "its regression on the true one. The elements of largest effect.", "",
        *_table([{"label": n, **m} for n, m in card["derivatives"].items()]), "",
        "An emulated difference between two stars is the integral of its "
        "derivatives along the way. Over pairs of neighbouring validation spectra its rms error "
        f"is {relative:.3f} of the rms difference, its regression slope {slope:.3f}.", "",
        "**Smoothness.** Moving one label through a tenth of its range, the 99.9th percentile "
        f"of the distance of a pixel's curve from a cubic is {ripple}.", "",
        "**Limits.**", "", *(f"- {limit}" for limit in card["limits"]), "",
        f"Written by `python -m {written_by}`.", "",
    ]
    return "\n".join(lines)


def made_by(origin: Any) -> str:
    """Return what a grid says of its origin in a line."""
    if isinstance(origin, dict) and "joined" in origin:
        return ". Joined with: ".join(made_by(part["made_by"]) for part in origin["joined"])
    if isinstance(origin, dict):
        return "; ".join(f"{k}: {v}" for k, v in origin.items() if isinstance(v, (str, int, float)))
    return str(origin)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        if 0.0 < abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.0f}"

    return ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]),
            *("| " + " | ".join(map(text, row.values())) + " |" for row in rows)]


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--only", type=click.Choice([*MEASURED_ON, "mlp-fgk"]), multiple=True)
def main(grids: Path, runs: Path, only: tuple[str, ...]) -> None:
    """Train what is not trained yet, measure, write."""
    config = Config.read(RECIPE, grids=grids)
    for name in only or (*MEASURED_ON, "mlp-fgk"):
        if name == "mlp-fgk":
            emulator = mlp(grids, runs)
        else:
            for base in list(MEASURED_ON)[:list(MEASURED_ON).index(name)]:
                if not (runs / base).exists():
                    shutil.copytree(SHIPPED / base, runs / base / "best")
            if name == "mgb-fgk" and not (runs / name).exists():
                config.train(runs, only=["mgb-fgk-first"], resume=True)
            emulator = config.train(runs, only=[name], resume=True)[name]
            ship(emulator, emulators.Grid(grids / MEASURED_ON[name]))
        record(emulator, runs / name)
        click.echo(f"{emulator!r}")


if __name__ == "__main__":
    main()
