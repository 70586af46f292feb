"""The commands ``stellarfit survey run``, ``status`` and ``merge``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from stellarfit.cli_options import FAILURES, configured, given, settings_options


@click.group("survey")
def survey_command() -> None:
    """Fit many stars, on many machines, and lose none.

    \b
    stellarfit survey run spectra/ --resolution 20000 --out survey --workers 8
    stellarfit survey status survey
    stellarfit survey merge survey -o catalogue.fits
    """


@survey_command.command("run")
@click.argument("inputs", nargs=-1, metavar="FILES...")
@click.option("-o", "--out", "folder", type=click.Path(file_okay=False, path_type=Path),
              required=True, help="Folder of the survey.")
@click.option("--list", "listed", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A text file with a path per line, in place of FILES.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              is_eager=True, expose_value=False, callback=configured,
              help="TOML of these options, by their names; the command line overrules it.")
@settings_options
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True,
              help="Stars side by side; memory grows with it.")
@click.option("--device", help="Where to compute: cpu (the default), cuda, ...")
@click.option("--shard", type=click.IntRange(1), default=512, show_default=True,
              help="Stars that are written together; changes no row.")
@click.option("--models/--no-models", default=False, show_default=True,
              help="Keep results in full, best models included.")
@click.option("--single/--many", default=False, show_default=True,
              help="No file holds more than one star: they need not be opened to count.")
@click.option("--workers", type=click.IntRange(1), help="Processes here; one per core by default.")
@click.option("--scheduler", help="Address of a dask scheduler to use instead: tcp://host:8786.")
@click.option("--skip-existing/--again", default=True, show_default=True,
              help="Whether shards that are done stay as they are.")
@click.option("--retry-failed", is_flag=True,
              help="Fit batches again in which a star was missing or unreadable, or failed.")
@click.pass_context
def run_command(
    context: click.Context, /, inputs: tuple[str, ...], folder: Path, listed: Path | None,
    skip_existing: bool, retry_failed: bool, **options: Any,
) -> None:
    """Fit the stars of FILES: paths, patterns, folders, files of many stars.

    Called again it goes on where it was; without FILES it takes those of the folder's survey.
    The exit code is 1 if a shard could not be made, or no star has a fit.

    \b
    Examples:
      stellarfit survey run spectra/ -R 20000 -e mgb-fgk-r20k --out survey --workers 8
      stellarfit survey run "night*/*.fits" --config survey.toml --out survey
      stellarfit survey run --out survey --retry-failed
    """
    from stellarfit.survey.running import IncompleteError, reason, run

    files: Any = list(inputs)
    if listed is not None:
        if files:
            raise click.UsageError("--list is in place of FILES: give one or the other")
        files = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
        if not files:
            raise click.ClickException(f"'{listed}' lists no files")
    if not files:  # a survey that goes on has settings of its own: only what is said counts
        source = click.core.ParameterSource
        options = {n: v for n, v in options.items()
                   if context.get_parameter_source(n) not in (source.DEFAULT, None)}
    try:
        state = run(files or None, folder, again=not skip_existing, retry_failed=retry_failed,
                    **given(options))
        click.echo(f"{folder}: {state}")
        if state.failed == state.stars:
            raise click.ClickException(f"no star has a fit; the first: {reason(folder, 0)}")
    except KeyboardInterrupt:
        raise click.ClickException(
            f"stopped; what is done stays: go on with 'stellarfit survey run -o {folder}'"
        ) from None
    except (*FAILURES, IncompleteError) as error:
        raise click.ClickException(str(error)) from error


@survey_command.command("status")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def status_command(folder: Path, as_json: bool) -> None:
    """Say how far a survey is: stars and shards done, rows without a fit, rate, time to go.

    \b
    Example:
      stellarfit survey status survey --json
    """
    from stellarfit.survey.running import status

    try:
        state = status(folder)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({k: v if not isinstance(v, float) or math.isfinite(v) else None
                               for k, v in asdict(state).items()}))
    else:
        click.echo(f"{folder}: {state}")


@survey_command.command("merge")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="The catalogue: .fits, .ecsv or .parquet.")
@click.option("--aliases", type=click.Choice(["galah", "apogee"]),
              help="Name columns as another survey does.")
def merge_command(folder: Path, output: Path, aliases: str | None) -> None:
    """Put the shards together, a row for every input, in the order of the inputs.

    Refuses, with exit code 1, while a shard is missing or damaged.

    \b
    Example:
      stellarfit survey merge survey -o catalogue.fits --aliases apogee
    """
    from stellarfit.survey.catalogue import alias
    from stellarfit.survey.running import IncompleteError, merge

    try:
        table = merge(folder, output, aliases=aliases)
    except (*FAILURES, IncompleteError) as error:
        raise click.ClickException(str(error)) from error
    lost = int((table[alias("status", aliases)] != 0).sum())
    click.echo(f"wrote {output}: {len(table)} rows, {lost} without a fit")

