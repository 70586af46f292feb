"""The command ``emulators``: make grids; train, evaluate and list emulators.

Exit code 0 is success, 1 an error that one line on stderr explains, 2 a wrong command line.
torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emulators.completion import emulator_names, recipe_names
from emulators.grid_cli import grid

if TYPE_CHECKING:
    from emulators.emulator import Emulator

FAILURES = (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError)


class _Group(click.Group):
    """A group whose commands end foreseeable failures with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:  # a RuntimeError by birth, and no failure
            raise
        except FAILURES as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stellarfit", prog_name="emulators")
def main() -> None:
    """Make grids of synthetic stellar spectra; train, evaluate and list their emulators.

    \b
    Examples:
      emulators list
      emulators train grid.h5 -o runs/mine
      emulators evaluate runs/mine/best grid.h5
    """


def _key_values(
    ctx: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, Any]:
    """Turn KEY=VALUE words into a dict; a value is JSON where it can be, else text."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", ctx, parameter)
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


@main.command()
@click.argument("source", metavar="GRID|CONFIG", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Folder of the run; the emulator is written to DIR/best.  With CONFIG, the "
                   "folder of its runs: DIR/NAME/best.")
@click.option("--network",
              type=click.Choice(["transformer", "mlp", "cnn", "cannon", "components"]),
              help="Architecture; that of --init where it is given.  [default: transformer]")
@click.option("--init", metavar="NAME|DIR", shell_complete=emulator_names,
              help="Fine-tune a copy of this emulator.")
@click.option("--mode", type=click.Choice(["full", "lora"]),
              help="With --init: all weights, or low-rank adapters.  [default: full]")
@click.option("--lora", multiple=True, metavar="KEY=VALUE", callback=_key_values,
              help="Setting of the adapters, such as rank=16; may be repeated.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_key_values,
              help="Setting of the training, such as steps=20000 or precision=bf16; may be "
                   "repeated.  emulators settings lists them.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.  [default: 20000]")
@click.option("--batch", type=click.IntRange(1), help="Spectra per step.  [default: 16]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="Peak learning rate.  [default: 2e-3]")
@click.option("--seed", type=int, help="Same seed, same weights.  [default: 0]")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR, if there is one.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=_key_values,
              help="Option of the architecture, such as dim=128; may be repeated.")
@click.option("--scale-with", type=click.Path(path_type=Path), multiple=True, metavar="GRID",
              help="Scale the labels to span this grid too; may be repeated.")
@click.option("--grids", type=click.Path(path_type=Path), metavar="DIR",
              help="With CONFIG: where its grids are.  [default: beside it]")
@click.option("--only", multiple=True, metavar="NAME",
              help="With CONFIG: do this run alone; may be repeated.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, ...")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--tensorboard", is_flag=True, help="Write a log for TensorBoard too.")
def train(
    source: Path, out: Path, init: str | None, mode: str | None, lora: dict[str, Any],
    settings: dict[str, Any], resume: bool, options: dict[str, Any],
    scale_with: tuple[Path, ...], grids: Path | None, only: tuple[str, ...], device: str,
    threads: int | None, tensorboard: bool, network: str | None, **common: Any,
) -> None:
    """Train an emulator on GRID, an HDF5 file of spectra and their labels, or the runs that
    a CONFIG file (.toml) describes.

    The best state on the validation split is kept.  A run that was stopped goes on with
    --resume and the same options.

    \b
    Examples:
      emulators train pretrain.h5 -o runs/base --scale-with target.h5
      emulators train target.h5 -o runs/target --init runs/base/best --learning-rate 5e-4
      emulators train few.h5 -o runs/few --init mgb-base --mode lora --lora rank=16 --steps 1000
      emulators train two-cores.toml --grids grids -o runs/two-cores
      torchrun --nproc-per-node 4 -m emulators train paper.toml -o runs/paper --device cuda
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    shared: dict[str, Any] = {"resume": resume, "device": device, "tensorboard": tensorboard}
    settings |= {k: v for k, v in common.items() if v is not None}
    if source.suffix == ".toml":
        if settings or options or scale_with or lora or init or mode or network:
            raise click.UsageError("a CONFIG file brings its own settings: write them there")
        _train_config(source, out, grids, only, shared)
        return
    if grids is not None or only:
        raise click.UsageError("--grids and --only go with a CONFIG file")
    if init is not None and (options or scale_with or network):
        raise click.UsageError("--init brings its network, options and scale: drop --network, "
                               "--option, --scale-with")
    if lora and mode != "lora":
        raise click.UsageError("--lora goes with --mode lora")
    _train_grid(source, out, scale_with, settings, {
        "network": network, "init": init, "mode": mode or "full", "lora": lora or None,
        "options": options, **shared,
    })


def _train_config(
    path: Path, out: Path, grids: Path | None, only: tuple[str, ...], shared: dict[str, Any]
) -> None:
    from emulators.config import Config

    config = Config.read(path, grids=grids)
    for name, emulator in config.train(out, only=only, **shared).items():
        _report(emulator, out / name / "best")


def _train_grid(
    path: Path, out: Path, scale_with: tuple[Path, ...], settings: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    from emulators import Grid, LabelSet
    from emulators import train as train_emulator
    from emulators.training import recipe_of

    recipe = recipe_of(None, settings)
    grid, labels = Grid(path), None
    if scale_with:
        labels = LabelSet.spanning(grid.label_set, *(Grid(g).label_set for g in scale_with))
    _report(train_emulator(grid, out=out, labels=labels, recipe=recipe, **arguments),
            out / "best")


def _report(emulator: Emulator, folder: Path) -> None:
    if os.environ.get("RANK", "0") != "0":  # under torchrun, the first process speaks
        return
    if "teacher" not in emulator.provenance and (
            matching := (emulator.provenance.get("init") or {}).get("labels")):
        click.echo(f"labels: {matching}")
    click.echo(f"{emulator!r} in {folder}")
    if emulator.metrics:
        click.echo(_table(emulator.metrics))


@main.command()
def settings() -> None:
    """List the settings of a training and their defaults; help(emulators.Recipe) explains them.

    \b
    Example:
      emulators train grid.h5 -o run --set steps=5000 --set precision=bf16
    """
    from dataclasses import fields

    from emulators.recipe import Recipe

    for field in fields(Recipe):
        click.echo(f"  {field.name:16} {field.default!r:12} {field.type}")


@main.command()
@click.argument("emulator", shell_complete=emulator_names)
@click.argument("grid", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "validation", "test"]),
              default="validation",
              show_default=True, help="Which spectra of the grid.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def evaluate(emulator: str, grid: Path, split: str, as_json: bool) -> None:
    """Compare EMULATOR, a name or a folder, with the spectra of GRID.

    \b
    Example:
      emulators evaluate mgb-fgk mgb-fgk.h5
    """
    from emulators import Grid, load
    from emulators import evaluate as evaluate_emulator

    loaded, spectra = load(emulator), Grid(grid)
    metrics = evaluate_emulator(loaded, spectra, split=split)
    count = len(spectra.rows(split))
    if as_json:
        click.echo(json.dumps({
            "emulator": loaded.name, "sha256": loaded.sha256, "grid": grid.name,
            "split": split, "n_spectra": count, "metrics": metrics,
        }, indent=1))
        return
    click.echo(f"{loaded.identity} on {count} {split} spectra of {grid.name}")
    click.echo(_table(metrics))


@main.command()
@click.argument("recipe", shell_complete=recipe_names)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="GRID",
              help="The HDF5 file to write.")
@click.option("--number", type=click.IntRange(1), help="How many spectra.  [default: the recipe's]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Processes on this machine.")
@click.option("--scheduler", metavar="ADDRESS",
              help="Use the workers of this dask scheduler, such as tcp://host:8786.")
@click.option("--append", is_flag=True, help="Extend the grid that is there to --number.")
@click.option("--shard", type=click.IntRange(1), default=8, show_default=True,
              help="Spectra that a worker makes at a time, and that a kill may cost.")
def synthesize(
    recipe: str, out: Path, number: int | None, workers: int, scheduler: str | None,
    append: bool, shard: int,
) -> None:
    """Make the grid of RECIPE, a TOML file or the name of one that ships.

    A run that was stopped goes on when it is called again.

    \b
    Examples:
      emulators synthesize mgb-fgk -o mgb-fgk.h5 --workers 2
      emulators synthesize mine.toml -o mine.h5 --scheduler tcp://login:8786
      emulators synthesize mine.toml -o mine.h5 --append --number 20000
    """
    import logging

    from emulators import synthesize as make

    logging.getLogger("emulators").addHandler(logging.StreamHandler())
    grid = make(recipe, out, number=number, workers=workers, scheduler=scheduler,
                append=append, shard=shard)
    click.echo(f"{grid!r} in {out}")


def _ends(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Turn LOW:HIGH into two numbers."""
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not LOW:HIGH", ctx, parameter) from None


@main.command()
@click.argument("teacher", metavar="TEACHER", shell_complete=emulator_names)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Folder of the run; the student is written to DIR/best.")
@click.option("--wavelength", metavar="LOW:HIGH", callback=_ends,
              help="Å, at rest, that the student covers.  [default: all]")
@click.option("-R", "--instrument", type=click.FloatRange(0, min_open=True), metavar="R",
              help="Resolution of the survey: the student's spectra are half as sharp again, as a "
              "fit of it needs them.")
@click.option("--resolution", type=click.FloatRange(0, min_open=True), metavar="R",
              help="Of the student's own spectra, in place of --instrument; an instrument must be "
              "less sharp.  [default: the teacher's]")
@click.option("--spectra", type=click.IntRange(1), default=20_000, show_default=True,
              help="Spectra that the teacher makes.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=_key_values,
              help="hidden, layers or components of the network; may be repeated.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_key_values,
              help="Setting of the training, such as steps=40000; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run in DIR.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, ...")
def distill(teacher: str, settings: dict[str, Any], out: Path, **arguments: Any) -> None:
    """Teach a small, fast network what TEACHER, one that ships or a folder, knows.

    The student is for one survey's pixels.

    \b
    Examples:
      emulators distill mgb-fgk -o runs/survey -R 20000
      emulators distill mgb-fgk -o runs/wide --wavelength 5160:5190 --spectra 50000
    """
    from emulators import distill as teach

    _report(teach(teacher, out=out, **{**arguments, **settings}), out / "best")


main.add_command(grid)


@main.command("measure-errors")
@click.argument("emulator", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("grid_path", metavar="GRID", type=click.Path(exists=True, dir_okay=False))
@click.option("--split", default="validation", show_default=True)
def measure_errors_command(emulator: Path, grid_path: str, split: str) -> None:
    """Keep with the emulator in DIR how wrong it is on spectra of GRID that it was not trained on.

    Fits add that to the noise.

    \b
    Example:
      emulators measure-errors runs/mine/best test.h5 --split train
    """
    from emulators import Grid, load, measure_errors

    if (emulator / "adapter.json").is_file():
        raise ValueError(f"'{emulator}' holds adapters, which keep no errors: give the folder of "
                         "the whole emulator, which a run leaves in best")
    found = load(emulator)
    with Grid(grid_path) as grid:
        found.errors = measure_errors(found, grid, split=split)
    found.save(emulator)
    click.echo(f"{emulator}: errors of {len(found.errors.errors)} spectra are kept")


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def list_emulators(as_json: bool) -> None:
    """List the emulators that come with the package.

    \b
    Example:
      emulators list --json
    """
    from emulators import available, load

    shown = {name: load(name) for name in available()}
    rows = [_describe(name, emulator) for name, emulator in shown.items()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo("no emulators come with this installation", err=True)
    for row in rows:
        low, high = row["range"]
        click.echo(f"{row['name']:16} {low:.1f}-{high:.1f} Å {row['medium']:6}  "
                   f"{row['bytes'] / 1e6:5.1f} MB  sha256 {row['sha256'][:12]}  "
                   f"{shown[row['name']].error_in_words}")


def _describe(name: str, emulator: Emulator) -> dict[str, Any]:
    from emulators.storage import shipped

    return {
        "name": name, "range": list(emulator.wavelength_range),
        "medium": emulator.medium, "mae": emulator.metrics.get("mae"),
        "bytes": sum(f.stat().st_size for f in (shipped() / name).iterdir()),
        "sha256": emulator.sha256,
    }


def _table(metrics: dict[str, float]) -> str:
    from emulators.metrics import DESCRIPTIONS

    return "\n".join(
        f"  {name:7} {value:10.3e}  {DESCRIPTIONS[name]}" for name, value in metrics.items()
    )


if __name__ == "__main__":
    main()
