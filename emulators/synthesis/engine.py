"""The synthesis code: an atmosphere, a composition and lines to a spectrum.

The one that comes with us is SME, through PySME (Piskunov & Valenti 1996, A&AS 118, 595;
Wehrhahn, Piskunov & Ryabchikova 2023, A&A 671, A171), in LTE, plane-parallel.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emulators.air import air_to_vacuum
from emulators.synthesis.atmosphere import Atmosphere
from emulators.synthesis.elements import ELEMENTS
from emulators.synthesis.lines import LineList

HYDROGEN_IONISATION = 13.59844  # eV
ELECTRONVOLT_ANGSTROM = 12398.42


@dataclass(frozen=True, eq=False)
class Synthesis:
    """The flux of a star at the wavelengths that were asked for.

    Attributes
    ----------
    flux : (n_pix,) float64
        Normalised: 1 at the continuum.
    continuum : (n_pix,) float64
        Flux without lines, erg/s/cm²/Å at the surface.
    """

    flux: NDArray[np.float64]
    continuum: NDArray[np.float64]


class Engine(Protocol):
    """A synthesis code."""

    lines: LineList

    @property
    def identity(self) -> str:
        """Name and version."""

    def __call__(
        self, atmosphere: Atmosphere, abundances: NDArray[np.float64], vmic: float,
        wavelength: NDArray[np.float64],
    ) -> Synthesis:
        """Return the flux at `wavelength`, in the medium of the lines.

        Parameters
        ----------
        atmosphere : Atmosphere
        abundances : (n_element,) float64
            A(X) from hydrogen.
        vmic : float
            km/s.
        wavelength : (n_pix,) float64
            Angstrom, increasing.

        Raises
        ------
        FloatingPointError
            When what came out is no spectrum.
        """


class PySME:
    """SME in LTE, through PySME; needs the extra ``stellarfit[synthesis]``.

    Parameters
    ----------
    lines : LineList
        All of them are used.
    n_mu : int
        Annuli of equal area over the disk.
    accuracy : float
        Lines weaker than this, against the continuum's opacity, are left out (SME's accrt).

    Raises
    ------
    ModuleNotFoundError
        When PySME is not installed.
    """

    def __init__(self, lines: LineList, *, n_mu: int = 7, accuracy: float = 1e-4) -> None:
        self.lines = lines
        self.accuracy = accuracy
        self.mu, self.weight = annuli(n_mu)
        _ = self._synthesizer  # says at once if PySME is missing

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"PySME {version('pysme-astro')} (LTE)"

    @cached_property
    def _synthesizer(self) -> Any:
        try:
            from pysme.synthesize import Synthesizer
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "PySME is not installed: pip install 'stellarfit[synthesis]'") from error
        logging.getLogger("pysme").setLevel(logging.ERROR)
        return Synthesizer()

    def _linelist(self) -> Any:
        import pandas as pd
        from pysme.linelist.linelist import LineList as SMELines

        lines = self.lines
        stark, vdw = _levels_for_damping(lines)
        table = pd.DataFrame({
            "species": lines.species, "wlcent": lines.wavelength, "excit": lines.excitation,
            "gflog": lines.log_gf + lines.log_fraction, "gamrad": lines.gamma_rad,
            "gamqst": stark, "gamvw": vdw,
            "atom_number": [float(ELEMENTS.index(s.split()[0]) + 1)
                            if s.split()[0] in ELEMENTS else 0.0 for s in lines.species],
            "ionization": [float(s.split()[1]) for s in lines.species],
        })
        medium = {"air": "air", "vacuum": "vac"}[lines.medium]
        return SMELines(table, lineformat="short", medium=medium)

    def __call__(
        self, atmosphere: Atmosphere, abundances: NDArray[np.float64], vmic: float,
        wavelength: NDArray[np.float64],
    ) -> Synthesis:
        """Return the flux at `wavelength`, see :class:`Engine`."""
        sme = self._star(atmosphere, abundances, vmic, wavelength)
        self._run(sme)
        # PySME puts zeros where SME's numbers are not finite; no star is as dark as that.
        dark = ((np.asarray(sme.sint[0]) <= 0) | (np.asarray(sme.cint[0]) <= 0)).any(axis=0)
        lines, continuum = self._disk(sme.sint[0]), self._disk(sme.cint[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            flux = lines / continuum
        if dark.any() or not np.isfinite(flux).all():
            where = wavelength[dark | ~np.isfinite(flux)]
            raise FloatingPointError(
                f"the synthesis gave no finite intensity at {len(where)} pixels, the first "
                f"at {where[0]:.2f} Å")
        return Synthesis(flux, continuum)

    def strength(
        self, atmosphere: Atmosphere, abundances: NDArray[np.float64], vmic: float,
        low: float, high: float,
    ) -> NDArray[np.float64]:
        """Return opacity at the centre of each line against the continuum's, (n_line,).

        The largest over the layers.
        """
        # A synthesis at two pixels, since it leaves what its own selection of lines found.
        sme = self._star(atmosphere, abundances, vmic, np.array([low, high]))
        self._run(sme)
        return np.asarray(np.nan_to_num(np.array(sme.linelist["almax_ratio"], dtype=float)))

    def _run(self, sme: Any) -> None:
        with warnings.catch_warnings():
            # It says that its own electron density differs from the model's where the
            # abundances do; it is right to, and uses its own.
            warnings.simplefilter("ignore")
            self._synthesizer.synthesize_spectrum(sme)

    def _star(
        self, atmosphere: Atmosphere, abundances: NDArray[np.float64], vmic: float,
        wavelength: NDArray[np.float64],
    ) -> Any:
        from pysme.abund import Abund
        from pysme.atmosphere.atmosphere import Atmosphere as SMEAtmosphere
        from pysme.sme import SME_Structure

        sme = SME_Structure()
        sme.teff, sme.logg, sme.vmic = atmosphere.teff, atmosphere.logg, vmic
        sme.vmac = sme.vsini = 0.0
        sme.abund = Abund(0.0, abundances.copy(), "H=12")
        sme.linelist = self._linelist()
        # Intensities at our own pixels, wherever there are gaps: SME's adaptive grid would be
        # interpolated linearly, and takes several times as long where lines are sharp.
        sme.wran = [[float(wavelength[0]), float(wavelength[-1])]]
        sme.wint = [np.asarray(wavelength, dtype=float)]
        sme.atmo = SMEAtmosphere(
            teff=atmosphere.teff, logg=atmosphere.logg, vturb=vmic, method="embedded",
            geom="PP", depth="RHOX", interp="RHOX", rhox=atmosphere.rhox,
            temp=atmosphere.temperature, xne=atmosphere.electron_density,
            xna=atmosphere.particle_density, rho=atmosphere.density,
        )
        sme.mu = self.mu
        sme.accrt = self.accuracy
        sme.specific_intensities_only = True
        sme.normalize_by_continuum = False
        return sme

    def __getstate__(self) -> dict[str, Any]:
        # The library behind it stays in its process.
        return {k: v for k, v in self.__dict__.items() if k != "_synthesizer"}

    def _disk(self, intensity: Any) -> NDArray[np.float64]:
        """Return the flux of the disk from intensities, (n_mu, n_pix)."""
        # A copy: SME's array may be a view of what the next star overwrites.
        return np.asarray(np.pi * (self.weight @ np.array(intensity, dtype=float)))


def _levels_for_damping(lines: LineList) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Stark and van der Waals widths as SME reads them.

    For neutral hydrogen, whose profiles it computes itself, it reads the principal quantum
    numbers of the lower and the upper level in their place.
    """
    hydrogen = lines.species == "H 1"
    lower = np.sqrt(1.0 / np.maximum(1.0 - lines.excitation / HYDROGEN_IONISATION, 1e-4))
    vacuum = air_to_vacuum(lines.wavelength) if lines.medium == "air" else lines.wavelength
    energy = lines.excitation + ELECTRONVOLT_ANGSTROM / vacuum
    upper = np.sqrt(1.0 / np.maximum(1.0 - energy / HYDROGEN_IONISATION, 1e-4))
    return (np.where(hydrogen, np.round(lower), lines.gamma_stark),
            np.where(hydrogen, np.round(upper), lines.gamma_vdw))


def annuli(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mu and weight of annuli of equal area, mu falling.

    Each is seen at the radius that halves its area; boundaries lie at the rms of neighbouring
    radii.  The weights sum to 1.
    """
    mu = np.sqrt(1.0 - (np.arange(n) + 0.5) / n)
    radius = np.sqrt(1.0 - mu**2)
    inner = np.sqrt(0.5 * (radius[1:]**2 + radius[:-1]**2))
    boundary = np.concatenate([[0.0], inner, [1.0]])
    return mu, np.diff(boundary**2)
