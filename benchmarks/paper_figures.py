"""The experiment's tables and figures: ``python -m benchmarks.paper_figures GRIDS``.

Reads what ``benchmarks.paper`` and ``benchmarks.any_wavelength`` left in
``benchmarks/results`` and writes the tables of ``docs/experiments.md``, the paper's Figure 2
(``docs/images/figure2.png``) and Figure 3 (``docs/images/figure3.png``).  GRIDS is needed for
the true spectrum of Figure 3 alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

import emulators
from benchmarks import any_wavelength, lora_plateau, tune
from benchmarks.paper import RESULTS, SHOWN_SIZE, SIZES

DOCS = Path(__file__).parents[1] / "docs"
#: family -> words, colour (Okabe & Ito's, for the colour-blind), marker
STYLE = {
    "cannon": ("Cannon, quadratic ridge", "#999999", "v"),
    "cnn": ("CNN", "#CC79A7", "P"),
    "mlp": ("MLP 2×300 (The Payne)", "#0072B2", "o"),
    "mlp-wide": ("MLP, wide and deep", "#56B4E9", "s"),
    "transformer-mixed": ("transformer, mixed tokens", "#F0E442", "X"),
    "full-mixed": ("pretrained, mixed tokens", "#000000", "p"),
    "transformer": ("transformer", "#E69F00", "D"),
    "lora": ("pretrained, LoRA", "#009E73", "^"),
    "full": ("pretrained, full fine-tuning", "#D55E00", "*"),
}
MEASURES = {"mse": "MSE", "mae": "MAE", "maxae": "MaxAE", "mare": "MARE", "qae95": "QAE₉₅",
            "qmae95": "QMAE₉₅"}

#: the tables stand between two of these
MARK = "<!-- tables of benchmarks.paper_figures -->"

Results = dict[tuple[str, int], dict[str, Any]]


def read(seed: int = 0) -> Results:
    """Return the results by family and number of spectra."""
    found = [json.loads(p.read_text()) for p in sorted(RESULTS.glob(f"*-{seed}.json"))]
    return {(r["family"], r["n"]): r for r in found}


def table(results: Results) -> str:
    """Return all measures of all runs as Markdown."""
    lines = ["| family | N | " + " | ".join(MEASURES.values()) + " | minutes |",
             "|" + "---|" * (len(MEASURES) + 3)]
    for family, (words, _, _) in STYLE.items():
        for n in SIZES:
            if (run := results.get((family, n))) is not None:
                numbers = " | ".join(
                    f"{run['metrics'][m]:.2e}" if m == "mse" else f"{run['metrics'][m]:.4f}"
                    for m in MEASURES)
                lines.append(f"| {words} | {n} | {numbers} | {run['seconds'] / 60:.0f} |")
    return "\n".join(lines)


#: claim, what was asked for, what the paper says; the error ratios that tell:
#: (family, N) over (family, N)
CLAIMS: list[tuple[str, str, str, list[tuple[tuple[str, int], tuple[str, int]]]]] = [
    ("transformer against MLP", "≥ 2", "2-3", [(("mlp", 1000), ("transformer", 1000))]),
    ("the same, against a wide and deep MLP", "", "",
     [(("mlp-wide", 1000), ("transformer", 1000))]),
    ("full fine-tuning against transformer", "≥ 2", "2-3",
     [(("transformer", n), ("full", n)) for n in SIZES]),
    ("the same with the paper's tokens", "", "2-3",
     [(("transformer-mixed", 1000), ("full-mixed", 1000))]),
    ("the paper's transformer against MLP", "", "2-3",
     [(("mlp", 1000), ("transformer-mixed", 1000))]),
    ("full fine-tuning against MLP", "≥ 5 (MAE, MaxAE)", "5-10",
     [(("mlp", 1000), ("full", 1000)), (("mlp-wide", 1000), ("full", 1000))]),
    ("full fine-tuning with a tenth of the MLP's spectra", "≥ 1", "about 1",
     [(("mlp", 1000), ("full", 100)), (("mlp-wide", 1000), ("full", 100))]),
    ("LoRA against full fine-tuning", "≈ 1 to N = 300, > 1 above 1000", "the same",
     [(("lora", n), ("full", n)) for n in SIZES]),
    ("CNN against MLP", "≥ 1", "no better", [(("cnn", n), ("mlp", n)) for n in SIZES]),
]


def claims(results: Results) -> str:
    """Return, per claim, how many times the error of one run is that of another."""
    lines = ["| claim | asked | paper | errors compared | RMSE | MAE | MaxAE |",
             "|" + "---|" * 7]
    for words, asked, paper, pairs in CLAIMS:
        for one, other in pairs:
            if one in results and other in results:
                a, b = results[one]["metrics"], results[other]["metrics"]
                names = " / ".join(f"{family} {n}" for family, n in (one, other))
                lines.append(
                    f"| {words} | {asked} | {paper} | {names} | "
                    f"{(a['mse'] / b['mse']) ** 0.5:.2f} | {a['mae'] / b['mae']:.2f} | "
                    f"{a['maxae'] / b['maxae']:.2f} |")
                words = asked = paper = ""
    if any_wavelength.RESULT.exists():
        words, asked, paper = "any wavelength", "≤ 1.1", "no degradation"
        for name, r in json.loads(any_wavelength.RESULT.read_text())["sampling"].items():
            lines.append(f"| {words} | {asked} | {paper} | pixels never seen / seen, {name} | | "
                         f"{r['ratio']:.2f} | |")
            words = asked = paper = ""
    return "\n".join(lines)


def tables() -> str:
    """Return all tables of the page."""
    results = read()
    return "\n\n".join((
        "", claims(results), "## All runs", table(results), "## How far adapters get",
        lora_plateau.table(), "## Tuning, on spectra held back", tune.table(), ""))


def figure2(results: Results, path: Path) -> None:
    """Draw MSE, MAE and MaxAE against the number of training spectra."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    for axis, measure in zip(axes, ("mse", "mae", "maxae"), strict=True):
        for family, (words, colour, marker) in STYLE.items():
            points = [(n, results[family, n]["metrics"][measure]) for n in SIZES
                      if (family, n) in results]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=words)
        axis.set(xscale="log", yscale="log", xlabel="training spectra", ylabel=MEASURES[measure])
        axis.set_xticks(SIZES, [str(n) for n in SIZES])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False)
    figure.savefig(path, dpi=150)


def figure3(results: Results, grid: emulators.Grid, path: Path) -> None:
    """Draw one validation spectrum, as synthesised and as emulated, at N = 1000."""
    families = [f for f in ("mlp", "transformer", "full") if (f, SHOWN_SIZE) in results]
    row = results[families[0], SHOWN_SIZE]["spectrum"]["row"]
    true = grid.flux(np.array([row]))[0]
    near = (grid.wavelength > 5160) & (grid.wavelength < 5190)
    x = grid.wavelength[near]
    figure, axes = plt.subplots(2, 1, figsize=(11, 5.2), sharex=True, layout="constrained",
                                height_ratios=(3, 2))
    for family in families:
        words, colour, _ = STYLE[family]
        emulated = np.array(results[family, SHOWN_SIZE]["spectrum"]["emulated"])
        axes[0].plot(x, emulated[near], color=colour, lw=0.9, label=words)
        axes[1].plot(x, (emulated - true)[near], color=colour, lw=0.9)
    axes[0].plot(x, true[near], "k--", lw=0.7, label="synthesis")
    labels = dict(zip(grid.label_set.names, grid.labels[row], strict=True))
    axes[0].set(ylabel="normalised flux", ylim=(-0.12, 1.02))
    axes[0].set_title(f"a validation spectrum: Teff {labels['teff']:.0f} K, log g "
                      f"{labels['logg']:.2f}; emulators trained on 1000 spectra", fontsize=10)
    axes[0].legend(loc="lower right", ncols=4, fontsize=8)
    axes[1].set(xlabel="wavelength in air / Å", ylabel="emulated − synthesis",
                xlim=(x[0], x[-1]))
    axes[1].grid(alpha=0.3)
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(grids: Path) -> None:
    """Write the tables and draw the figures."""
    results = read()
    page = DOCS / "experiments.md"
    before, _, rest = page.read_text().partition(MARK)
    after = rest.partition(MARK)[2]
    page.write_text(before + MARK + tables() + MARK + after)
    figure2(results, DOCS / "images" / "figure2.png")
    figure3(results, emulators.Grid(grids / "mgb-target.h5"), DOCS / "images" / "figure3.png")
    click.echo(claims(results))


if __name__ == "__main__":
    main()
