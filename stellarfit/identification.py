"""Which lines make the dips of a spectrum: the strongest line that the list has at each.

The dips and their depths are the model's.  The line list, the one that ships, only says whose they
are: of the lines within half a line's width of a dip, that with the most absorbers, gf-weighted,

    A(X) + log gf + log f(isotope) - theta chi + log n(stage) / n(element),   theta = 5040 K / Teff,

with Saha's equation for two stages, partition functions left out, at an electron pressure that goes
as g^(1/3) (Gray 2005, *The Observation and Analysis of Stellar Photospheres*, chapters 1 and 9).
Good enough to choose between lines that stand together, not to synthesise them.  Molecules are left
out: a dip that atoms do not explain has no name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from emulators.air import air_to_vacuum
from emulators.files import shipped_folder
from emulators.synthesis.abundances import abundances
from emulators.synthesis.elements import ELEMENTS, IONISATION
from emulators.synthesis.lines import LineList
from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.result import ArmFit

Array = NDArray[np.float64]
#: of the continuum: shallower dips have no name
SHALLOWEST = 0.03
#: on the scale of A(X): a weaker line makes no dip
WEAKEST = -0.5
#: log electron pressure (dyn / cm^2) where lines of the Sun form, and the Sun's log g
PRESSURE, SUN_LOGG = 1.0, 4.44
#: km/s, FWHM of a narrow line of a dwarf before rotation and instrument
INTRINSIC = 5.0
STAGES = ("I", "II", "III")


@dataclass(frozen=True)
class Identification:
    """A dip of the model and the line that makes it.

    Attributes
    ----------
    wavelength : float
        Where the line is seen, Angstrom, in the spectrum's medium.
    depth : float
        Of the dip, a fraction of the continuum.
    species : str
        ``Fe I``.
    rest : float
        Wavelength of the line at rest, Angstrom, in the spectrum's medium.
    excitation, log_gf : float
        Of the line; eV.
    """

    wavelength: float
    depth: float
    species: str
    rest: float
    excitation: float
    log_gf: float


def identify(
    arm: ArmFit, labels: Mapping[str, float], *, fwhm: float
) -> list[Identification]:
    """Return the dips of an arm's model that lines explain, the deepest first.

    Parameters
    ----------
    arm : ArmFit
    labels : mapping of str to float
        Of the star, as :attr:`FitResult.labels`.
    fwhm : float
        Of lines as they are seen, km/s (:func:`seen_width`).

    Returns
    -------
    list of Identification
        One for each line; the deepest dip where it is the strongest at several.
    """
    from scipy.signal import find_peaks

    fine = arm.used & (arm.continuum > 0)
    depth = np.zeros(len(fine))
    depth[fine] = 1.0 - arm.model[fine] / arm.continuum[fine]
    dips, _ = find_peaks(depth, height=SHALLOWEST, prominence=0.5 * SHALLOWEST)
    shift = np.sqrt((1.0 + arm.rv / SPEED_OF_LIGHT) / (1.0 - arm.rv / SPEED_OF_LIGHT))
    lines, strengths = _candidates(arm, shift, labels)
    found: dict[float, Identification] = {}
    for dip in dips[np.argsort(-depth[dips])]:
        centre = arm.wavelength[dip] / shift
        half = 0.5 * centre * fwhm / SPEED_OF_LIGHT
        near = slice(*np.searchsorted(lines.wavelength, [centre - half, centre + half]))
        if near.start == near.stop or strengths[near].max() < WEAKEST:
            continue
        i = near.start + int(np.argmax(strengths[near]))
        rest = float(lines.wavelength[i])
        element, stage = lines.species[i].split()
        found.setdefault(rest, Identification(
            rest * shift, float(depth[dip]), f"{element} {STAGES[int(stage) - 1]}", rest,
            float(lines.excitation[i]), float(lines.log_gf[i])))
    return list(found.values())


def seen_width(labels: Mapping[str, float], resolution: float) -> float:
    """Return about how wide (km/s, FWHM) a star's lines are seen at a resolution."""
    return float(np.hypot(np.hypot(SPEED_OF_LIGHT / resolution, INTRINSIC),
                          1.5 * labels.get("vsini", 0.0)))


def _candidates(
    arm: ArmFit, shift: float, labels: Mapping[str, float]
) -> tuple[LineList, Array]:
    """Return the atomic lines of an arm in its medium, and how strong they are."""
    lines = _atomic_lines(arm.spectrum.medium).between(
        arm.wavelength[0] / shift - 1.0, arm.wavelength[-1] / shift + 1.0)
    return lines, _strengths(lines, labels)


@cache
def _atomic_lines(medium: str) -> LineList:
    """Return the lines of atoms that ship, in air or vacuum."""
    lines = LineList.read(shipped_folder("linelists") / "optical.h5")
    lines = lines[np.isin([s.split()[0] for s in lines.species], ELEMENTS)]
    if medium == "air":
        return lines
    return replace(lines, wavelength=air_to_vacuum(lines.wavelength), medium="vacuum")


def _strengths(lines: LineList, labels: Mapping[str, float]) -> Array:
    """Return the logarithm of gf-weighted absorbers of each line, on the scale of A(X)."""
    teff, logg = labels.get("teff", 5772.0), labels.get("logg", SUN_LOGG)
    number = np.array([ELEMENTS.index(s.split()[0]) for s in lines.species], dtype=int)
    stage = np.array([int(s.split()[1]) for s in lines.species])
    iron = labels.get("fe_h", 0.0)
    metals = {f"{e.lower()}_h": labels.get(f"{e.lower()}_h", iron)
              for e, a in zip(ELEMENTS[2:], abundances({})[2:], strict=True) if np.isfinite(a)}
    composition = np.nan_to_num(abundances(metals), nan=-20.0)
    theta = 5040.0 / teff
    energy = np.append(IONISATION, np.full(len(ELEMENTS) - len(IONISATION), 6.0))[number]
    pressure = PRESSURE + (logg - SUN_LOGG) / 3.0
    ions = 10.0 ** (2.5 * np.log10(teff) - theta * energy - 0.18 - pressure)
    share = np.select([stage == 1, stage == 2], [1.0 / (1.0 + ions), ions / (1.0 + ions)], 1e-6)
    return np.asarray(composition[number] + lines.log_gf + lines.log_fraction
                      - theta * lines.excitation + np.log10(share))
