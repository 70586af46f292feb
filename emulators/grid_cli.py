"""``emulators grid``: look at grids of spectra, check them, or make one from spectra at hand.

The libraries are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


@click.group()
def grid() -> None:
    """Look at grids of spectra, check them, or make one from spectra that you have.

    \b
    Examples:
      emulators grid convert spectra/ -o mine.h5 --medium air
      emulators grid check mine.h5
    """


@grid.command("info")
@click.argument("path", metavar="GRID", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def grid_info(path: Path, as_json: bool) -> None:
    """Say what is in GRID: spectra, wavelengths, labels and their ranges, origin, failures.

    \b
    Example:
      emulators grid info mine.h5
    """
    from emulators import Grid
    from emulators.grid_summary import as_text, summary

    content = summary(Grid(path))
    click.echo(json.dumps(content, indent=1) if as_json else as_text(content))


@grid.command("check")
@click.argument("path", metavar="GRID", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def grid_check(path: Path, as_json: bool) -> None:
    """Look for what may be wrong with GRID; exit code 1 if it is an error.

    Fluxes that are unknown, infinite or not normalised, wavelengths in the other medium, equal
    or constant labels, labels outside the domain, too few spectra for validation.

    \b
    Example:
      emulators grid check mine.h5 && emulators train mine.h5 -o runs/mine
    """
    from dataclasses import asdict

    from emulators import Grid
    from emulators.grid_check import check

    findings = check(Grid(path))
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.text}")
        if not findings:
            click.echo(f"nothing wrong was found in {path.name}")
    if any(f.severity == "error" for f in findings):
        raise click.exceptions.Exit(1)


@grid.command("plot")
@click.argument("path", metavar="GRID", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="PICTURE",
              help="The file to write; its suffix is the format.")
def grid_plot(path: Path, out: Path) -> None:
    """Draw some spectra of GRID, the range of all, and how its labels are distributed.

    \b
    Example:
      emulators grid plot mine.h5 -o mine.png
    """
    from emulators import Grid
    from emulators.grid_plot import plot_grid

    click.echo(f"{plot_grid(Grid(path), out)}")


@grid.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="GRID",
              help="The HDF5 file to write.")
@click.option("--format", "kind", metavar="NAME",
              help="payne, fits, text, turbospectrum, moog, ispec or korg.  [default: recognised, "
                   "except korg]")
@click.option("--names", metavar="NAME,NAME,...",
              help="Which columns are labels, or LABEL=COLUMN; for payne the names of its labels "
                   "in their order.  [default: all columns, if they are known]")
@click.option("--medium", type=click.Choice(["air", "vacuum"]),
              help="Of the wavelengths; needed unless SOURCE says so.")
@click.option("--unit", help="Of the wavelengths, such as nm.  [default: what SOURCE says, else "
                             "Angstrom]")
@click.option("--resolution", type=click.FloatRange(1, min_open=True), metavar="R",
              help="That the spectra have been convolved to.  [default: none, they are sharp]")
@click.option("--labels", type=click.Path(path_type=Path), metavar="TABLE",
              help="CSV, ECSV, FITS or text with a column 'file'.  [default: SOURCE/labels.*]")
@click.option("--pattern", metavar="REGEX",
              help="Find the labels in the names of the files: (?P<teff>...).")
@click.option("--wavelength", type=click.Path(path_type=Path), metavar="FILE",
              help="The wavelengths of an .npz file that has none.")
@click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.1,
              show_default=True, help="Fraction of the spectra to validate on.")
def grid_convert(
    source: Path, out: Path, kind: str | None, names: str | None, **options: Any
) -> None:
    """Make a grid from the spectra in SOURCE, a folder or an .npz file of The Payne's.

    A folder holds one spectrum per file, all normalised and on the same wavelengths, and a table
    of their labels, labels.csv or --labels, whose column 'file' names the spectra.  Columns
    such as Teff, log g, [Fe/H] and [Mg/Fe] are recognised.  What the check finds is printed;
    with an error nothing is written.

    \b
    Examples:
      emulators grid convert spectra -o mine.h5 --medium air
      emulators grid convert spectra -o mine.h5 --medium air --names teff,logg,fe_h=[M/H]
      emulators grid convert korg -o korg.h5 --format korg --labels korg.csv
      emulators grid convert ts -o ts.h5 --medium air \\
          --pattern 'p(?P<teff>\\d+)_g(?P<logg>[+-][\\d.]+)_.*_z(?P<fe_h>[+-][\\d.]+)'
      emulators grid convert kurucz_training_spectra.npz -o apogee.h5 --medium vacuum \\
          --wavelength apogee_wavelength.npz --names teff,logg,vmic,...
    """
    from emulators import Grid

    with _messages():
        made = Grid.convert(source, out, format=kind,
                            names=names.split(",") if names else None, **options)
    click.echo(f"{made!r} in {out}")


@grid.command("join")
@click.argument("paths", metavar="GRID MORE...", nargs=-1, required=True,
                type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="GRID",
              help="The HDF5 file to write.")
def grid_join(paths: tuple[Path, ...], out: Path) -> None:
    """Add the spectra of MORE to the training spectra of GRID, in a new file.

    All must be on the same wavelengths and have the same labels, within the domain of the first
    grid.  Its validation and test spectra stay those to measure on, so that emulators trained
    with and without the others can be compared.

    \b
    Example:
      emulators grid join mine.h5 more.h5 -o both.h5
    """
    from emulators import Grid

    with _messages():
        made = Grid.join(paths, out)
    click.echo(f"{made!r} in {out}")


@contextmanager
def _messages() -> Iterator[None]:
    """Show on stderr what the library has to say meanwhile."""
    import logging

    logger, handler = logging.getLogger("emulators"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
