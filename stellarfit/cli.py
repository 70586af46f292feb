"""The command ``stellarfit``: fit and sample from the shell.

Heavy imports wait until a command runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emulators.completion import emulator_names
from stellarfit.cli_options import (
    FAILURES,
    given,
    instruments,
    names,
    numbers,
    pictures,
    settings_options,
)
from stellarfit.naming import harmless, stem_of
from stellarfit.report.cli import report_command
from stellarfit.survey.cli import survey_command

if TYPE_CHECKING:
    from stellarfit.posterior.result import Posterior
    from stellarfit.result import FitResult

def fit_options(command: Any) -> Any:
    """Add the options that fitting and sampling share."""
    for option in reversed((
        click.argument("files", nargs=-1, required=True, metavar="FILE..."),
        click.option("--together", is_flag=True,
                     help="The files are arms, orders or exposures of one star, named 1, 2, ..."),
        click.option("--target", "targets", multiple=True, metavar="NAME",
                     help="Of a file of many stars (a DESI coadd), only this one; repeatable."),
        click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path),
                     default=Path("out"), show_default=True, help="Folder of the results."),
        settings_options,
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
                     help="Of torch; more only pay on an idle machine."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
        click.option("-v", "--verbose", is_flag=True, help="Log what happens."),
    )):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stellarfit")
def main() -> None:
    """Fit stellar spectra with emulators.

    \b
    stellarfit fit star.fits --instrument harps -o out
    stellarfit sample star.fits --resolution 47000 --free teff,logg,vmic,fe_h,rv,vsini
    stellarfit report out/star.h5 -o star.html
    """


main.add_command(report_command)
main.add_command(survey_command)


@main.command("fit")
@fit_options
@click.option("--method", type=click.Choice(["lm", "adam"]), default="lm", show_default=True)
@click.option("--truth", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON of known values to print beside the fitted ones.")
@click.option("--plot/--no-plot", default=None, callback=pictures,
              help="Draw NAME.png; by default where matplotlib is installed.")
def fit_command(
    files: tuple[str, ...], output: Path, truth: Path | None, plot: bool, as_json: bool,
    threads: int, verbose: bool, medium: str | None, together: bool, targets: tuple[str, ...],
    **options: Any,
) -> None:
    """Fit the labels of stars.

    Writes NAME.h5 (the result), NAME.ecsv (a table) and NAME.png (a picture) per FILE.
    The exit code is 1 if a file failed; the others are fitted all the same.

    \b
    stellarfit fit sun.fits procyon.fits --instrument harps -o out
    stellarfit fit star.txt -R 20000 --medium air --fix vsini=0 --tie ca_fe=mg_fe
    stellarfit fit blue.fits red.fits --together -R 20000,28000
    """
    options = _settle(files[:1] if together else files, options, threads, verbose)
    _make_folder(output)
    known = _truth(truth) if truth else None

    def one(star: Any, stem: str) -> dict[str, Any]:
        import stellarfit
        from stellarfit.quality import names_of

        result = stellarfit.fit(star, **options)
        _write(result, output / stem, plot)
        if not as_json:
            click.echo(result.summary(known) + "\n")
        return {"labels": {n: result.labels[n] for n in result.names},
                "errors": {n: _finite(result.errors[n]) for n in result.names},
                "verdicts": result.verdicts,
                "flags": result.flags, "flag_names": names_of(result.flags),
                "converged": result.converged,
                "chi2": _finite(result.chi2), "dof": result.dof,
                "residual_rms": _finite(result.residual_rms),
                "provenance": result.provenance}

    _each(files, one, as_json, medium=medium, together=together, targets=targets)


@main.command("calibrate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("-l", "--label", "labels", multiple=True, callback=numbers, required=True,
              metavar="NAME=VALUE", help="What is known of the star; repeatable.")
@click.option("-i", "--instrument", shell_complete=instruments,
              help="Name of a spectrograph, such as harps.")
@click.option("-R", "--resolution", type=float, help="R = wavelength / FWHM.")
@click.option("-e", "--emulator", default="mgb-fgk", show_default=True,
              shell_complete=emulator_names,
              help="Name of one that ships, or a folder.")
@click.option("--medium", type=click.Choice(["air", "vacuum"]),
              help="Of the wavelengths, where the file does not say.")
@click.option("--continuum", default="3", show_default=True,
              help="Of the fit; as of the command fit.")
@click.option("--free", callback=names, default="rv,vsini", show_default=True,
              help="What is fitted nevertheless, comma-separated.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def calibrate_command(
    file: str, labels: dict[str, float], free: list[str], output: Path, **options: Any
) -> None:
    """Learn from a star of known labels which pixels a model gets wrong.

    \b
    stellarfit calibrate sun.fits -i harps -l teff=5772 -l logg=4.438 -l vmic=1.0 \\
        -l fe_h=0 --free rv,vsini,vmac -o sun.h5
    stellarfit fit star.fits -i harps --calibration sun.h5
    """
    import stellarfit

    _make_folder(output.parent)
    try:
        mask, result = stellarfit.calibrate(file, labels=labels, free=tuple(free),
                                            **given(options))
        mask.save(output)
    except FAILURES as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{result.summary()}\n\nwrote {output}: residual scatter "
               f"{100 * result.residual_rms:.2f} % of the continuum")


@main.command("sample")
@fit_options
@click.option("--sampler", type=click.Choice(["emcee", "nuts", "importance"]), default="emcee",
              show_default=True)
@click.option("--max-steps", type=click.IntRange(2), default=3000, show_default=True)
@click.option("--chains", type=click.IntRange(1), default=2, show_default=True,
              help="Independent ensembles, or chains of NUTS.")
@click.option("--walkers", type=click.IntRange(4), help="Of each ensemble.")
@click.option("--resume", is_flag=True, help="Keep chains in NAME-chains.h5, and go on from there.")
@click.option("--many", is_flag=True,
              help="Sample stars on the same wavelengths side by side, in one batch.")
@click.option("--plot/--no-plot", default=None, callback=pictures,
              help="Draw pairs of parameters, chains, and the spectra that samples predict; by "
              "default where matplotlib is installed.")
def sample_command(
    files: tuple[str, ...], output: Path, sampler: str, max_steps: int, chains: int,
    walkers: int | None, resume: bool, many: bool, plot: bool, as_json: bool, threads: int,
    verbose: bool, medium: str | None, together: bool, targets: tuple[str, ...], **options: Any,
) -> None:
    """Sample the posterior of stars' labels.

    Writes NAME-samples.ecsv, NAME-summary.ecsv, NAME-posterior.h5 and three pictures per star.

    \b
    stellarfit sample sun.fits --instrument harps -o out
    stellarfit sample --many --sampler importance survey/*.fits -R 20000 -o out
    """
    options = _settle(files[:1] if together else files, options, threads, verbose)
    options |= {"sampler": sampler, "max_steps": max_steps, "chains": chains,
                "walkers": walkers, "progress": not as_json}
    _make_folder(output)

    def chains_of(stem: str) -> Path | None:
        return output / f"{stem}-chains.h5" if resume else None

    def one(star: Any, stem: str) -> dict[str, Any]:
        import stellarfit

        return written(stellarfit.sample(star, checkpoint=chains_of(stem), **options), stem)

    def batch(stars: list[Any], stems: list[str]) -> list[Any]:
        import stellarfit

        posteriors = stellarfit.sample_batch(
            stars, checkpoints=[chains_of(s) for s in stems], **options)
        return [partial(written, p) for p in posteriors]

    def written(posterior: Posterior, stem: str) -> dict[str, Any]:
        from emulators.files import atomic_write

        posterior.save(output / f"{stem}-samples.ecsv")
        posterior.save(output / f"{stem}-posterior.h5")
        with atomic_write(output / f"{stem}-summary.ecsv") as temporary:
            posterior.to_summary_table().write(temporary)
        if not as_json:
            click.echo(posterior.summary() + "\n")
        if plot and len(posterior.samples) > len(posterior.names):
            posterior.corner(output / f"{stem}-corner.png")
            posterior.trace(output / f"{stem}-trace.png")
            posterior.plot(output / f"{stem}-predictive.png")
        elif plot:
            click.echo(f"{stem}: too few samples to draw", err=True)
        found = {n: [_finite(x) for x in posterior.interval(n)]
                 for n in (*posterior.names, *posterior.derived)}
        low, median, high = ({n: v[i] for n, v in found.items()} for i in range(3))
        return {"median": median, "low": low, "high": high, "converged": posterior.converged,
                "verdict": posterior.verdict, "acceptance": posterior.diagnosis.acceptance,
                "burn_in": posterior.diagnosis.burn_in,
                "tau": {n: _finite(t) for n, t in
                        zip(posterior.names, posterior.diagnosis.tau.tolist(), strict=True)},
                "ess": {n: _finite(e) for n, e in
                        zip(posterior.names, posterior.diagnosis.ess.tolist(), strict=True)},
                "rhat": {n: _finite(r) for n, r in
                         zip(posterior.names, posterior.diagnosis.rhat.tolist(), strict=True)},
                "flags": posterior.flags, "notes": posterior.notes,
                "provenance": posterior.fit.provenance}

    _each(files, one, as_json, medium=medium, together=together, targets=targets,
          batch=batch if many else None)


def _make_folder(folder: Path) -> None:
    """Make the folder of the results, or say that it cannot be, before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.ClickException(
            f"cannot write into '{folder}': {error.strerror or error}") from error


def _truth(path: Path) -> dict[str, float]:
    try:
        return {k: float(v) for k, v in json.loads(path.read_text())["labels"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise click.ClickException(
            f"'{path}' is no truth: expected JSON with an object 'labels' of numbers"
        ) from error


def _settle(
    files: tuple[str, ...], options: dict[str, Any], threads: int, verbose: bool
) -> dict[str, Any]:
    """Load the emulator once for all files; set up torch and logging."""
    stems = [stem_of(f) for f in files]
    if twice := sorted({s for s in stems if stems.count(s) > 1}):
        raise click.ClickException(
            f"several files would be written as {', '.join(twice)}: fit them into folders of "
            f"their own"
        )
    import torch

    import emulators

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING,
                        format="%(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(threads)
    try:
        return {**given(options), "emulator": emulators.load(options["emulator"])}
    except FAILURES as error:
        raise click.ClickException(str(error)) from error


def _each(
    files: tuple[str, ...], one: Any, as_json: bool, *, medium: str | None, together: bool,
    targets: tuple[str, ...], batch: Any = None,
) -> None:
    """Treat every star of every file; a bad one is reported and the rest go on.

    With `batch`, stars on the same wavelengths are computed some at a time, and apart only where
    that fails; it returns for each what writes it.
    """
    from tqdm import tqdm

    groups = [list(files)] if together else [[f] for f in files]
    report: list[dict[str, Any]] = []

    def record(file: str, stem: str, make: Any) -> None:
        if len(groups) == 1 and not as_json and sys.stderr.isatty():
            click.echo(f"{stem} ...", err=True)
        try:
            report.append({"file": file, "name": stem, **make()})
        except FAILURES as error:
            where = file if stem == stem_of(file) else f"{file}, {stem}"
            report.append({"file": file, "name": stem, "error": _report(where, error)})

    waiting: dict[bytes, list[tuple[str, str, Any]]] = {}
    for group in tqdm(groups, unit="file", disable=True if as_json or len(groups) == 1 else None):
        try:
            stars = _read(group, medium, targets)
        except FAILURES as error:
            report.append({"file": group[0], "error": _report(group[0], error)})
            continue
        for stem, star in stars.items():
            if batch is None:
                record(group[0], stem, partial(one, star, stem))
            else:
                waiting.setdefault(_pixels(star), []).append((group[0], stem, star))
    for alike in waiting.values():
        for first in range(0, len(alike), BATCH):
            some = alike[first:first + BATCH]
            try:
                writers = batch([star for *_, star in some], [stem for _, stem, _ in some])
            except FAILURES as error:
                logging.getLogger(__name__).warning("stars are treated apart: %s", error)
                writers = [None] * len(some)
            for (file, stem, star), write in zip(some, writers, strict=True):
                record(file, stem, partial(write, stem) if write else partial(one, star, stem))
    if as_json:
        click.echo(json.dumps(report, indent=1, allow_nan=False))
    if any("error" in row for row in report):
        sys.exit(1)


#: stars that are sampled side by side, and written before the next
BATCH = 32


def _pixels(star: Any) -> bytes:
    """Return what stars on the same wavelengths have in common."""
    from stellarfit.spectrum import Spectrum

    arms = [star] if isinstance(star, Spectrum) else (
        list(star.values()) if isinstance(star, dict) else list(star))
    return b" ".join(a.wavelength.tobytes() for a in arms)


def _read(group: list[str], medium: str | None, targets: tuple[str, ...]) -> dict[str, Any]:
    """Return the stars of a file, or the one of several, by what their results are called."""
    import stellarfit

    known = {"medium": medium} if medium else {}
    stem = stem_of(group[0])
    if len(group) > 1:
        return {stem: [stellarfit.read(f, **known) for f in group]}
    stars = stellarfit.read_all(group[0], **known)
    if missing := [t for t in targets if t not in stars]:
        raise ValueError(f"no target {', '.join(missing)}; the file has {', '.join(stars)}")
    if not targets and len(stars) == 1:
        return {stem: next(iter(stars.values()))}
    found: dict[str, Any] = {}
    for name in targets or stars:
        key = f"{stem}-{harmless(name)}"
        while key in found:  # made harmless, two names may be one
            key += "_"
        found[key] = stars[name]
    return found


def _report(where: str, error: Exception) -> str:
    """Say on stderr what went wrong; return it."""
    said = " ".join(str(error).split())
    click.echo(f"Error: {said if where in said else f'{where}: {said}'}", err=True)
    return str(error)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(result: FitResult, stem: Path, plot: bool) -> None:
    from emulators.files import atomic_write

    result.save(stem.with_name(stem.name + ".h5"))
    with atomic_write(stem.with_name(stem.name + ".ecsv")) as temporary:
        result.to_table().write(temporary, format="ascii.ecsv")
    if plot:
        result.plot(stem.with_name(stem.name + ".png"))
