"""The command ``stellarfit report``."""

from __future__ import annotations

from pathlib import Path

import click

from stellarfit.cli_options import FAILURES


@click.command("report")
@click.argument("sources", metavar="RESULT...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              metavar="PAGE.html", help="The page to write.")
def report_command(sources: tuple[str, ...], output: Path) -> None:
    """Write an HTML page to look at, that works from disk without a network.

    Of one RESULT, what 'stellarfit fit' or 'stellarfit sample' saved (.h5), it is the page of a
    star: spectrum and model to zoom in, names of lines, labels with errors, flags in words.  Of
    several, or of a catalogue (.fits, .ecsv or .parquet of 'stellarfit survey merge'), it is a
    table to sort and filter with plots beside it; the pages of the results given go into a
    folder of the page's name, and rows lead to them.

    \b
    stellarfit report out/star.h5 -o star.html
    stellarfit report out/*.h5 -o stars.html
    stellarfit report catalogue.fits out/star05.h5 -o catalogue.html
    """
    from stellarfit.report.writing import write_report

    try:
        click.echo(f"wrote {write_report(sources, output)}")
    except FAILURES as error:
        raise click.ClickException(" ".join(str(error).split())) from error
