"""An observed spectrum, checked once, at the door.

Whatever is wrong with an input is found when the :class:`Spectrum` is made: it is put
right where that loses nothing (descending wavelengths are reversed, bad pixels masked and
counted) and refused in one sentence where it is not.  Everything behind the door relies on
increasing wavelengths in Å, a known medium, finite fluxes and an inverse variance for each
pixel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.air import air_to_vacuum, vacuum_to_air
from emulators.notebook import shown
from stellarfit import pixels
from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.resolution_matrix import PixelMatrix

MEDIA = ("air", "vacuum")

#: km/s: nobody observes from anything faster than the Earth, or not much
FASTEST_OBSERVER = 100.0


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Spectrum:
    """Flux against wavelength, with its noise.

    Parameters
    ----------
    wavelength : (n_pix,) array_like or Quantity
        Å, or any length as an astropy Quantity.  Unsorted ones are sorted, together with
        all the rest.
    flux : (n_pix,) array_like or Quantity
        In any unit, normalised or not.
    ivar, uncertainty : (n_pix,) array_like or Quantity, optional
        Inverse variance or standard deviation, not both; in the unit of the flux where
        they bring none of their own.  Without either, the noise is estimated from the
        scatter of the flux (`stellarfit.pixels.estimate_noise`) and runs of exact
        zeros, the usual filling of detector gaps, are masked with the 5 pixels on either side.
    mask : (n_pix,) array_like of bool or int, optional
        True or non-zero is bad.
    medium : {'air', 'vacuum'}
        What the wavelengths are measured in.  There is no default: the two differ by
        80 km/s.
    name : str
        Of the star, for tables and plots.
    resolution : (n_pix,) array_like, optional
        R = wavelength / FWHM of the line-spread function in each pixel, where the file knows.
    matrix : PixelMatrix, optional
        Resolution matrix of the pixels, which must then come in increasing order.
    meta : mapping, optional
        Anything to keep with the spectrum.

    Attributes
    ----------
    wavelength : (n_pix,) float64
        Å, strictly increasing.
    flux : (n_pix,) float64
        Finite; 0 where the input was not, and masked there.
    ivar : (n_pix,) float64
        Finite; 0 means ignore.
    mask : (n_pix,) bool
        True for the pixels of the given mask, of non-finite flux, of an ivar that is not
        a positive number, and of gaps.
    medium, name : str
    resolution : (n_pix,) float64 or None
    matrix : PixelMatrix or None
    meta : dict
        What was given, plus ``noise`` ('given' or 'estimated'), ``medium_from``
        ('argument', 'header' or 'instrument'), ``counts`` (see :attr:`counts`) and
        ``flux_unit`` where it is known.

    Raises
    ------
    ValueError
        In one sentence: what we got, what we expected, what to do.

    Examples
    --------
    >>> spectrum = Spectrum([5001, 5000], [0.5, 1.0], ivar=[1e4, 1e4], medium="air")
    >>> spectrum.wavelength.tolist(), spectrum.flux.tolist()
    ([5000.0, 5001.0], [1.0, 0.5])
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    mask: NDArray[np.bool_]
    medium: str
    name: str
    resolution: NDArray[np.float64] | None
    matrix: PixelMatrix | None
    meta: dict[str, Any]

    def __init__(
        self,
        wavelength: Any,
        flux: Any,
        *,
        ivar: Any = None,
        uncertainty: Any = None,
        mask: Any = None,
        medium: str | None = None,
        name: str = "",
        resolution: Any = None,
        matrix: PixelMatrix | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if ivar is not None and uncertainty is not None:
            raise ValueError("got both ivar and uncertainty; give the one you trust")
        unit = getattr(flux, "unit", None)
        noise = "ivar" if uncertainty is None else "uncertainty"  # as errors call it
        given = {
            "wavelength": pixels.angstrom(wavelength),
            "flux": pixels.values("flux", flux),
            noise: pixels.inverse_variance(ivar, uncertainty, unit),
            "mask": None if mask is None else np.asarray(mask) != 0,
            "resolution": None if resolution is None else pixels.values("resolution", resolution),
        }
        if matrix is not None:
            pixels.check_matrix(matrix, pixels.angstrom(wavelength))
        arrays = pixels.in_order({k: v for k, v in given.items() if v is not None})
        ivar, mask, counts = pixels.judge(arrays["flux"], arrays.get(noise), arrays.get("mask"))

        kept = {"medium_from": "argument", **(meta or {}), "counts": counts}
        # dataclasses.replace hands back an estimated ivar as if it were given.
        estimated = noise not in arrays or kept.get("noise") == "estimated"
        kept["noise"] = "estimated" if estimated else "given"
        if unit is not None:
            kept.setdefault("flux_unit", str(unit))
        fields: dict[str, Any] = {
            "wavelength": arrays["wavelength"],
            "flux": np.where(np.isfinite(arrays["flux"]), arrays["flux"], 0.0),
            "ivar": ivar, "mask": mask, "medium": check_medium(medium), "name": name,
            "resolution": pixels.resolution(arrays.get("resolution")),
            "matrix": matrix, "meta": kept,
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.wavelength)

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        noise = " (estimated)" if self.noise_estimated else ""
        return (
            f"Spectrum({label}{self.wavelength[0]:.2f}-{self.wavelength[-1]:.2f} Å "
            f"{self.medium}, {len(self)} pixels, {np.sum(~self.good)} masked, "
            f"S/N {self.snr:.3g}{noise})"
        )

    def _repr_html_(self) -> str:
        noise = " (estimated)" if self.noise_estimated else ""
        return shown(self.name or "Spectrum", [
            ("pixels", f"{len(self)}, {np.sum(~self.good)} masked"),
            ("wavelengths", f"{self.wavelength[0]:.2f}-{self.wavelength[-1]:.2f} Å, {self.medium}"),
            ("S/N per pixel", f"{self.snr:.3g}{noise}"),
            ("frame", self.frame),
        ])

    @property
    def good(self) -> NDArray[np.bool_]:
        """The pixels that count, (n_pix,) bool: not masked and with a positive ivar."""
        return np.asarray(~self.mask & (self.ivar > 0))

    @property
    def snr(self) -> float:
        """Median signal-to-noise ratio per pixel, over the good pixels."""
        good = self.good
        return float(np.median(self.flux[good] * np.sqrt(self.ivar[good])))

    @property
    def noise_estimated(self) -> bool:
        """Whether the ivar was estimated from the flux, for want of a given one."""
        return bool(self.meta["noise"] == "estimated")

    @property
    def counts(self) -> dict[str, int]:
        """How many pixels were bad when the spectrum was made, and why.

        ``n_nan`` non-finite fluxes, ``n_zero_ivar`` pixels whose ivar is not a positive
        number, ``n_gap`` pixels of gaps filled with zeros, ``n_masked`` pixels of the
        given mask; a pixel may be in several.  They describe the spectrum as it came and
        stay so in a cut.
        """
        return dict(self.meta["counts"])

    def to_medium(self, medium: str) -> Spectrum:
        """Return the spectrum with its wavelengths in `medium`, 'air' or 'vacuum'.

        Fluxes stay as they are: the change of dlambda, 1e-6 over the optical, is ignored.

        Raises
        ------
        ValueError
            For another medium, or below 2000 Å when there is something to convert.
        """
        if check_medium(medium) == self.medium:
            return self
        convert = air_to_vacuum if medium == "vacuum" else vacuum_to_air
        return self._with(wavelength=convert(self.wavelength), medium=medium)

    def to_barycentric(self, velocity: float) -> Spectrum:
        """Return the spectrum as the solar system's barycentre would see it.

        Parameters
        ----------
        velocity : float
            Of the observer towards the star (BERV), km/s: it adds to a velocity measured
            in the observer's frame.

        Raises
        ------
        ValueError
            When the wavelengths are known to be in another frame than the observer's.
        """
        if self.frame not in ("topocentric", "unknown"):
            raise ValueError(f"the wavelengths of '{self.name}' are {self.frame} already")
        if not abs(velocity) < FASTEST_OBSERVER:
            raise ValueError(f"the observer's velocity is {velocity} km/s; expected less than "
                             f"{FASTEST_OBSERVER:g}, as the Earth's motion is")
        beta = velocity / SPEED_OF_LIGHT
        moved = self._with(wavelength=self.wavelength * np.sqrt((1.0 + beta) / (1.0 - beta)))
        moved.meta.update(frame="barycentric", barycentric_velocity=float(velocity))
        return moved

    @property
    def frame(self) -> str:
        """Whose velocity rv is relative to: barycentric, heliocentric, topocentric, stellar rest
        (APOGEE's combined spectra, whose rv is about zero) or unknown.
        """
        return str(self.meta.get("frame", "unknown"))

    def to_specutils(self) -> Any:
        """Return a specutils.Spectrum: Å, the flux in its unit, inverse variance and mask.

        specutils keeps neither medium nor name nor resolution: they are in its ``meta``, where
        :func:`from_specutils` finds them.

        Raises
        ------
        ImportError
            Without specutils.
        """
        try:
            import specutils
        except ImportError as error:
            raise ImportError("to_specutils needs specutils: pip install specutils") from error
        from astropy import units
        from astropy.nddata import InverseVariance

        kind = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
        unit = units.Unit(self.meta.get("flux_unit", ""), parse_strict="silent")
        return kind(
            spectral_axis=self.wavelength * units.Angstrom, flux=self.flux * unit,
            uncertainty=InverseVariance(self.ivar, unit=unit**-2), mask=self.mask,
            meta={**self.meta, "medium": self.medium, "name": self.name,
                  "resolution": self.resolution},
        )

    def cut(self, low: float, high: float) -> Spectrum:
        """Return the pixels with ``low <= wavelength <= high``, in Å of this medium.

        Raises
        ------
        ValueError
            When no good pixel is left.
        """
        inside = (self.wavelength >= low) & (self.wavelength <= high)
        span = f"wavelengths run {self.wavelength[0]:.6g}-{self.wavelength[-1]:.6g} Å"
        if not inside.any():
            raise ValueError(f"{span}, but {low:g}-{high:g} Å was asked for: nothing is left")
        if not (inside & self.good).any():
            raise ValueError(
                f"{span}, but all {inside.sum()} pixels in {low:g}-{high:g} Å are masked: "
                "nothing is left"
            )
        changes = {k: getattr(self, k)[inside] for k in ("wavelength", "flux", "ivar", "mask")}
        if self.resolution is not None:
            changes["resolution"] = self.resolution[inside]
        if self.matrix is not None:
            changes["matrix"] = self.matrix.cut(inside)
        return self._with(**changes)

    def _with(self, **changes: Any) -> Spectrum:
        """Return a copy with other values, which need no second check at the door."""
        other = copy.copy(self)
        for field, value in {"meta": dict(self.meta), **changes}.items():
            object.__setattr__(other, field, value)
        return other


def from_specutils(spectrum: Any, *, medium: str | None = None) -> Spectrum:
    """Return a Spectrum from one of specutils (``Spectrum`` or ``Spectrum1D``).

    Parameters
    ----------
    spectrum : specutils.Spectrum
        One-dimensional; its uncertainty may be of any kind, its mask is honoured.
    medium : {'air', 'vacuum'}, optional
        Needed unless ``spectrum.meta["medium"]`` says it, as :meth:`Spectrum.to_specutils` does.
    """
    known = dict(spectrum.meta or {})
    own = {k: known.pop(k, None) for k in ("medium", "name", "resolution")}
    sigma = None
    if spectrum.uncertainty is not None:
        from astropy.nddata import StdDevUncertainty

        with np.errstate(divide="ignore"):  # an inverse variance of 0 is an infinite error
            sigma = spectrum.uncertainty.represent_as(StdDevUncertainty).quantity
    from astropy import units

    wavelength = spectrum.spectral_axis.to(units.Angstrom, equivalencies=units.spectral())
    return Spectrum(wavelength, spectrum.flux, uncertainty=sigma, mask=spectrum.mask,
                    medium=medium or own["medium"], name=str(own["name"] or ""),
                    resolution=own["resolution"], meta=known)


def check_medium(medium: str | None) -> str:
    """Return `medium` if it is 'air' or 'vacuum'; anything else raises ValueError."""
    if medium is None:
        raise ValueError(
            "the medium of the wavelengths is not known; say medium='air' or medium='vacuum'"
        )
    if medium not in MEDIA:
        raise ValueError(f"medium is {medium!r}; it must be 'air' or 'vacuum'")
    return medium
