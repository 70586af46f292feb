"""What commands share: options of a fit, and how they are read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from emulators.completion import emulator_names

FAILURES = (ValueError, TypeError, OSError, ImportError, RuntimeError)


def assignments(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [v.partition("=") for v in values]
    if wrong := [v for v, p in zip(values, pairs, strict=True) if not p[1] or not p[2]]:
        raise click.BadParameter(f"expected NAME=VALUE, got {', '.join(wrong)}")
    return {left.strip(): right.strip() for left, _, right in pairs}


def numbers(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
             ) -> dict[str, float]:
    try:
        return {k: float(v) for k, v in assignments(context, parameter, values).items()}
    except ValueError as error:
        raise click.BadParameter(f"expected NAME=NUMBER: {error}") from error


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return [n.strip() for n in value.split(",") if n.strip()] if value else None


def pictures(_: click.Context, __: click.Parameter, wanted: bool | None) -> bool:
    """Return whether to draw: as was asked for, else if there is what draws."""
    if wanted is False or find_spec("matplotlib"):
        return wanted is not False
    said = "pictures need matplotlib: pip install 'stellarfit[plot]'"
    if wanted:
        raise click.ClickException(said)
    click.echo(f"none drawn: {said}", err=True)
    return False


def each_arm(_: click.Context, __: click.Parameter, value: str | None) -> str | list[str] | None:
    """Return one value, or a list of several."""
    if value is None or "," not in value:
        return value
    return [v.strip() for v in value.split(",")]


def each_resolution(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | list[float] | None:
    words = each_arm(context, parameter, value)
    try:
        return None if words is None else (
            float(words) if isinstance(words, str) else [float(w) for w in words])
    except ValueError as error:
        raise click.BadParameter(f"expected a number, or several with commas: {error}") from error


def instruments(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Complete the name of an instrument."""
    from stellarfit.instrument import PRESETS

    return [n for n in PRESETS if n.startswith(begun)]


def settings_options(command: Any) -> Any:
    """Add the options that say how a star is fitted."""
    for option in reversed((
        click.option("-i", "--instrument", callback=each_arm, shell_complete=instruments,
                     help="Name of a spectrograph, such as harps, or a file of wavelength and R; "
                          "of several arms one for all, or one for each, comma-separated."),
        click.option("-R", "--resolution", callback=each_resolution, metavar="R[,R...]",
                     help="R = wavelength / FWHM; likewise."),
        click.option("-e", "--emulator", default="mgb-fgk", show_default=True,
                     shell_complete=emulator_names, help="Name of one that ships, or a folder."),
        click.option("--medium", type=click.Choice(["air", "vacuum"]),
                     help="Of the wavelengths, where the file does not say."),
        click.option("--free", callback=names,
                     help="Free parameters, comma-separated; rv, vsini and vmac are held at 0 "
                          "where they are not among them.  [default: teff, logg, vmic, fe_h, nine "
                          "elements over iron, rv, vsini]"),
        click.option("--fix", "fixed", multiple=True, callback=numbers, metavar="NAME=VALUE",
                     help="Hold a parameter; repeatable."),
        click.option("--tie", "tied", multiple=True, callback=assignments,
                     metavar="NAME=OTHER", help="Move one parameter with another; repeatable."),
        click.option("--prior", "priors", multiple=True, callback=assignments,
                     metavar="NAME=PRIOR", help="gaussian:MEAN:SIGMA, uniform:LOW:HIGH, or for "
                     "teff bp_rp:COLOUR:ERROR; repeatable."),
        click.option("--continuum", default="3", show_default=True,
                     help="Degree of a polynomial, chebyshev:DEGREE:BREAK..., spline:ANGSTROM "
                          "or normalised."),
        click.option("--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="What the physics gets wrong, from 'stellarfit calibrate'."),
        click.option("--jitter/--no-jitter", default=True, show_default=True,
                     help="Add the noise that the errors lack."),
        click.option("--robust/--no-robust", default=True, show_default=True,
                     help="Weigh outliers down."),
        click.option("--correlation", type=click.FloatRange(0.0, 1.0, max_open=True), default=0.0,
                     show_default=True, help="Of the noise of neighbouring, resampled pixels."),
        click.option("--emulator-error/--no-emulator-error", default=True, show_default=True,
                     help="Add the emulator's own error to the noise."),
        click.option("--seed", type=int, default=0, show_default=True),
    )):
        command = option(command)
    return command


def configured(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Let a TOML file say the defaults of a command's options, by the names they have there.

    Values are read as they would be on the command line; what is repeatable there is a list, or a
    table of names and values.
    """
    import tomllib

    if path is None:
        return
    try:
        said = tomllib.loads(path.read_text())
    except ValueError as error:
        raise click.ClickException(f"'{path}' is not TOML: {error}") from error
    options = {option.opts[-1].lstrip("-"): option for option in context.command.params
               if isinstance(option, click.Option) and option.expose_value}
    # as in Python, too: fixed = ... for --fix
    known = {**{str(o.name).replace("_", "-"): o for o in options.values()}, **options}
    defaults: dict[str, Any] = {}
    for name, value in said.items():
        option = known.get(name.replace("_", "-"))
        if option is None:
            raise click.ClickException(
                f"'{path}': unknown {name}; valid: {', '.join(options)}")
        assert option.name is not None
        if isinstance(value, dict):
            value = [f"{k}={v}" for k, v in value.items()]
        defaults[option.name] = value if option.multiple or not isinstance(value, list) else (
            ",".join(map(str, value)))
    context.default_map = {**(context.default_map or {}), **defaults}


def given(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if v is not None}
