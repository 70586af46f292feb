"""What may be wrong with a grid, found before it is trained on.

An *error* is what no emulator should learn from: infinite fluxes, spectra that are not
normalised, labels outside the grid's own domain, wavelengths in the other medium.  A *warning*
is what may be meant: unknown pixels, equal label vectors, labels that do not vary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emulators.air import air_to_vacuum, vacuum_to_air
from emulators.grid import Grid
from emulators.notebook import several

logger = logging.getLogger(__name__)

ROWS = 256
#: Where a flux relative to the continuum lies, but for a few pixels of emission lines.
LOWEST, HIGHEST, FEW = 0.0, 1.5, 0.01
#: Strong lines of late-type stars, Å in air: Ca II H and K, H beta, Mg b, Na D, H alpha and the
#: infrared triplet of Ca II.
AIR_LINES = (3933.663, 3968.469, 4861.333, 5167.321, 5172.684, 5183.604, 5889.951, 5895.924,
             6562.79, 8498.02, 8542.09, 8662.14)
#: Mg I and Al I in the H band, Å in vacuum, as APOGEE's windows have them.
VACUUM_LINES = (15745.017, 15753.203, 15770.108, 16723.524, 16767.938)
#: Shifts at which lines are looked for, 3 km/s apart, and how many to a side make up a line.
SHIFTS, HALF_WIDTH = np.arange(-60, 61) * 1e-5, 4
#: How near (18 km/s) and how much deeper than in the other medium the lines must be.
NEAR, CLEARLY = 6e-5, 0.02
OTHER = {"air": "vacuum", "vacuum": "air"}


@dataclass(frozen=True)
class Finding:
    """Something about a grid that its user should know.

    Parameters
    ----------
    severity : {'error', 'warning'}
    text : str
        One sentence: what was found, where, and what to do.
    """

    severity: Literal["error", "warning"]
    text: str


@dataclass
class Survey:
    """What one pass over the spectra gathers.

    Parameters
    ----------
    sums, counts : (n_pix,) float64
        Over the spectra with a finite flux at a pixel.
    unknown, infinite, beyond : list of int
        Rows with NaN, with infinite fluxes, and with a few outside those of a normalised one.
    unnormalised : list of int
        Rows where more than a few pixels are outside.
    pixels : dict of str to int
        How many pixels of each kind.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    unknown: list[int] = field(default_factory=list)
    infinite: list[int] = field(default_factory=list)
    beyond: list[int] = field(default_factory=list)
    unnormalised: list[int] = field(default_factory=list)
    pixels: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("unknown", "infinite", "beyond"), 0))

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean flux of each pixel, (n_pix,), NaN where none is known."""
        with np.errstate(invalid="ignore"):
            return self.sums / np.where(self.counts > 0, self.counts, np.nan)

    def add(self, first: int, flux: NDArray[np.float32]) -> None:
        """Take in a block of spectra whose first row is `first`."""
        finite = np.isfinite(flux)
        self.sums += np.where(finite, flux, 0.0).sum(axis=0, dtype=np.float64)
        self.counts += finite.sum(axis=0)
        out = outside(flux) & finite
        bad = out.sum(axis=1) > FEW * np.maximum(finite.sum(axis=1), 1)
        for kind, where, rows in (
            ("unknown", np.isnan(flux), self.unknown), ("infinite", np.isinf(flux), self.infinite),
            ("beyond", out & ~bad[:, None], self.beyond),
        ):
            self.pixels[kind] += int(where.sum())
            rows.extend((first + np.flatnonzero(where.any(axis=1))).tolist())
        self.unnormalised.extend((first + np.flatnonzero(bad)).tolist())


def outside(flux: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a flux cannot be relative to the continuum; NaN is not known to be so."""
    # The rounding of a saturated core may fall below 0.
    return np.asarray((flux < LOWEST - 1e-3) | (flux > HIGHEST))


def check(grid: Grid) -> list[Finding]:
    """Return what may be wrong with a grid, errors first.

    Its spectra are read once, in blocks.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    list of Finding
        Empty when nothing was found.

    Examples
    --------
    >>> for finding in check(Grid("mine.h5")):                            # doctest: +SKIP
    ...     print(finding.severity, finding.text)
    """
    survey = Survey(np.zeros(grid.n_pix), np.zeros(grid.n_pix))
    for first in range(0, grid.n_spec, ROWS):
        survey.add(first, grid.flux(np.arange(first, min(first + ROWS, grid.n_spec))))
    checks: tuple[Callable[[Grid, Survey], Iterator[Finding]], ...] = (
        _fluxes, _continuum, _medium, _wavelengths, _labels, _duplicates, _domain, _split,
    )
    found = [finding for one in checks for finding in one(grid, survey)]
    return sorted(found, key=lambda f: f.severity)  # 'error' before 'warning'


def refuse_unnormalised(grid: Grid, count: int = 64) -> None:
    """Look at some training spectra before a network learns from them.

    Raises
    ------
    ValueError
        When most of them are no fluxes relative to a continuum.
    """
    rows = grid.rows("train")
    flux = grid.flux(rows[::max(1, len(rows) // count)])
    if np.median(outside(flux).mean(axis=1)) > FEW:
        raise ValueError(
            f"'{grid.path.name}' holds fluxes up to {np.nanmax(flux):.3g}, most of its spectra not "
            f"within {LOWEST:g} to {HIGHEST:g}: divide them by their continuum; 'emulators grid "
            "check' says more")


def refuse_errors(path: Path, name: Path) -> None:
    """Log the warnings about a file that is to be called `name`; raise its errors in one sentence.

    Raises
    ------
    ValueError
        When :func:`check` finds an error.
    """
    with Grid(path) as grid:
        findings = check(grid)
    for finding in findings:
        if finding.severity == "warning":
            logger.warning("%s: %s", name.name, finding.text)
    if errors := [f.text for f in findings if f.severity == "error"]:
        raise ValueError(f"'{name}' is not written: {'; '.join(errors)}")


def _fluxes(grid: Grid, survey: Survey) -> Iterator[Finding]:
    pixels = survey.pixels
    if survey.infinite:
        yield Finding("error", f"{pixels['infinite']} infinite fluxes in {len(survey.infinite)} "
                      f"spectra, the first in row {survey.infinite[0]}: make them again")
    if survey.unnormalised:
        yield Finding("error", f"{len(survey.unnormalised)} spectra lie outside {LOWEST:g} to "
                      f"{HIGHEST:g} in more than {FEW:.0%} of their pixels, the first in row "
                      f"{survey.unnormalised[0]}: divide them by their continuum")
    if survey.beyond:
        yield Finding("warning", f"{pixels['beyond']} fluxes in {len(survey.beyond)} spectra lie "
                      f"outside {LOWEST:g} to {HIGHEST:g}, the first in row {survey.beyond[0]}: "
                      "emission lines, or errors of the synthesis?")
    if survey.unknown:
        yield Finding("warning", f"{pixels['unknown']} fluxes in {len(survey.unknown)} spectra are "
                      f"NaN, the first in row {survey.unknown[0]}: training leaves them out")


def _continuum(grid: Grid, survey: Survey) -> Iterator[Finding]:
    mean = survey.mean[survey.counts > 0]
    if not survey.unnormalised and mean.size and (top := np.percentile(mean, 95)) < 0.9:
        yield Finding("warning", f"19 in 20 pixels of the mean spectrum lie below {top:.2f}: is it "
                      "normalised to its continuum?")


def _medium(grid: Grid, survey: Survey) -> Iterator[Finding]:
    looks = medium_by_lines(grid.wavelength, survey.mean, grid.medium)
    if looks and looks != grid.medium:
        lines = _lines_in(grid.wavelength, grid.medium)
        # A line alone may be another one that happens to stand there.
        yield Finding("error" if len(lines) > 1 else "warning",
                      f"the wavelengths are said to be in {grid.medium}, but these look like "
                      f"{looks}: the strong lines ({', '.join(f'{x:.0f}' for x in lines)} Å) stand "
                      f"where they are in {looks}, 83 km/s away; set the attribute 'medium' of "
                      f"/wavelength, or convert again with medium='{looks}'")


def medium_by_lines(
    wavelength: NDArray[np.float64], mean: NDArray[np.float64], medium: str
) -> str | None:
    """Return the medium in which strong lines stand where the mean spectrum has them.

    The depth at the wavelengths of the lines, averaged over them, is followed while all are
    shifted by up to twice the difference between air and vacuum.  It must be largest near no
    shift or near that difference; otherwise nothing can be said.

    Parameters
    ----------
    wavelength : (n_pix,) float64
        Å, in `medium` as far as is known.
    mean : (n_pix,) float64
        Mean flux of the grid, NaN where it is unknown.
    medium : {'air', 'vacuum'}

    Returns
    -------
    str or None
        ``air`` or ``vacuum``; None where no known line is covered or the sampling, blends or
        emission hide them.
    """
    lines, known = _lines_in(wavelength, medium), np.isfinite(mean)
    if not lines.size or not known.any():
        return None
    depth = 1.0 - np.interp(lines[:, None] * (1.0 + SHIFTS), wavelength[known], mean[known])
    # The mean over a box: the bottom of a line, not the deepest blend beside it.
    depth = np.convolve(depth.mean(axis=0), np.full(2 * HALF_WIDTH + 1, 1 / (2 * HALF_WIDTH + 1)),
                        mode="valid")
    shifts = SHIFTS[HALF_WIDTH:-HALF_WIDTH]
    apart = float(np.mean(lines / vacuum_to_air(lines) - 1.0)) * (1 if medium == "air" else -1)
    best = shifts[np.argmax(depth)]
    for here, there, name in ((0.0, apart, medium), (apart, 0.0, OTHER[medium])):
        # Emission lines would leave the largest depth to wherever nothing is.
        other = max(depth[np.argmin(np.abs(shifts - there))], np.median(depth), 0.0)
        if abs(best - here) < NEAR and depth.max() > other + CLEARLY:
            return name
    return None


def _lines_in(wavelength: NDArray[np.float64], medium: str) -> NDArray[np.float64]:
    """Return the known lines that are covered while they are shifted, and well sampled."""
    air, vacuum = np.array(AIR_LINES), np.array(VACUUM_LINES)
    lines = (np.concatenate([air, vacuum_to_air(vacuum)]) if medium == "air"
             else np.concatenate([air_to_vacuum(air), vacuum]))
    lines = lines[(lines * (1 + SHIFTS[0]) > wavelength[0])
                  & (lines * (1 + SHIFTS[-1]) < wavelength[-1])]
    pixel = np.diff(wavelength)[np.searchsorted(wavelength, lines) - 1] / lines
    return np.asarray(lines[pixel < 1e-4])


def _wavelengths(grid: Grid, survey: Survey) -> Iterator[Finding]:
    low, high = grid.wavelength[[0, -1]]
    if low < 2000.0:
        yield Finding("warning", f"the wavelengths run from {low:.6g} to {high:.6g} Å: are they in "
                      "nm?  Convert again with unit='nm'")


def _labels(grid: Grid, survey: Survey) -> Iterator[Finding]:
    low, high = grid.labels.min(axis=0), grid.labels.max(axis=0)
    names = np.array(grid.label_set.names)
    if fixed := names[low == high].tolist():
        yield Finding("warning", f"the same in all spectra: {several(fixed, 6)}; an emulator of "
                      "this grid does not know what else they may be")
    for name, top in zip(names.tolist(), high.tolist(), strict=True):
        if name == "teff" and top < 500.0:
            yield Finding("warning", f"teff is at most {top:g}: is it in K?")
        elif name.endswith("_h") and top > 3.0:
            yield Finding("warning", f"{name} reaches {top:g}: is it relative to the Sun, "
                          f"[X/H], and not log A(X)?")


def _duplicates(grid: Grid, survey: Survey) -> Iterator[Finding]:
    _, first, count = np.unique(grid.labels, axis=0, return_index=True, return_counts=True)
    if (again := grid.n_spec - len(first)) > 0:
        where = int(first[count > 1].min())
        yield Finding("warning", f"{again} spectra have the labels of another, the first those of "
                      f"row {where}: does something vary that is not a label?")


def _domain(grid: Grid, survey: Survey) -> Iterator[Finding]:
    beyond = np.flatnonzero(~grid.domain.contains(grid.labels))
    if beyond.size:
        how = grid.domain.describe_excess(grid.labels[beyond[:1]], grid.label_set.names)
        yield Finding("error", f"{beyond.size} spectra lie outside the grid's own domain, the "
                      f"first in row {beyond[0]} ({how}): mend the domain or leave them out")


def _split(grid: Grid, survey: Survey) -> Iterator[Finding]:
    count = len(grid.rows("validation"))
    if not len(grid.rows("train")):
        yield Finding("error", "no spectrum is for training: /split has no 0")
    if count < 10:
        yield Finding("warning", f"{count or 'no'} spectra for validation: they choose the best "
                      "state of a training and tell how good it is, so set aside a tenth of the "
                      "spectra and at least ten")
