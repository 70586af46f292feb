"""The arrays of a spectrum, as they were given, read and judged pixel by pixel.

Each function takes whatever a user may hand over and returns plain float64 arrays, or refuses
in one sentence; :class:`stellarfit.spectrum.Spectrum` calls them when it is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellarfit.instrument import HIGHEST, LOWEST
from stellarfit.resolution_matrix import PixelMatrix

# Plain numbers that all lie below are taken for nm, µm or log10(Å).  Spectra in Å of stars
# on the ground reach beyond 3000; those of the K band in nm (to 2500) do not.
LARGEST_AMBIGUOUS = 3000.0

# A detector gap written as zeros: this many in a row, and the pixels on either side that
# the resampling has mixed with them.
SHORTEST_GAP = 3
GAP_MARGIN = 5

# The scatter of the second difference 2 f[i] - f[i-2] - f[i+2] against that of f, and the
# standard deviation against the median absolute deviation.
SECOND_DIFFERENCE = 1.482602 / np.sqrt(6.0)
FEWEST_DIFFERENCES = 8


def values(what: str, data: Any, unit: Any = None) -> NDArray[np.float64]:
    """Return a copy of `data` as float64, in `unit` where both have one; masked becomes NaN."""
    found = getattr(data, "unit", None)
    try:
        # Quantities and table columns keep their numbers in .value.
        plain = np.ma.array(getattr(data, "value", data), dtype=np.float64)
        scale = 1.0 if found is None or unit is None else found.to(unit)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what} is in {found}, which is not {unit}; convert it first" if found is not None
            else f"{what} is not an array of numbers, but {_brief(data)}"
        ) from error
    return np.asarray(np.ma.filled(plain, np.nan) * scale)


def angstrom(wavelength: Any) -> NDArray[np.float64]:
    """Return wavelengths in Å, refusing what is not finite or cannot be Å."""
    array = values("wavelength", wavelength, "Angstrom")
    if bad := int(np.sum(~np.isfinite(array))):
        raise ValueError(
            f"{bad} of {array.size} wavelengths are not finite; remove those pixels first"
        )
    if array.size and array.min() <= 0:
        raise ValueError(f"wavelengths start at {array.min():g}; they must be positive, in Å")
    if array.size and array.max() < LARGEST_AMBIGUOUS and getattr(wavelength, "unit", None) is None:
        raise ValueError(
            f"wavelengths run {array.min():.6g}-{array.max():.6g} without a unit, which look like "
            "nm (or µm, or log10 Å); give them as an astropy Quantity or convert to Å"
        )
    return array


def inverse_variance(ivar: Any, uncertainty: Any, unit: Any) -> NDArray[np.float64] | None:
    """Return ivar, whichever of the two was given; 0 where the uncertainty is no good."""
    if ivar is not None:
        return values("ivar", ivar, None if unit is None else unit**-2)
    if uncertainty is None:
        return None
    sigma = values("uncertainty", uncertainty, unit)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.where(sigma > 0, sigma**-2.0, 0.0))


def resolution(given: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return a resolution for every pixel: where it is unknown, that of its neighbours."""
    if given is None:
        return None
    known = np.isfinite(given) & (given >= LOWEST) & (given <= HIGHEST)
    if not known.any():
        raise ValueError(f"no pixel has a resolution between {LOWEST:g} and {HIGHEST:g}")
    place = np.arange(len(given))
    return np.interp(place, place[known], given[known])


def check_matrix(matrix: PixelMatrix, wavelength: NDArray[np.float64]) -> None:
    if matrix.band.shape[1] != len(wavelength):
        raise ValueError(f"the resolution matrix has {matrix.band.shape[1]} rows for "
                         f"{len(wavelength)} pixels")
    if not (np.diff(wavelength) > 0).all():
        raise ValueError("with a resolution matrix the wavelengths must increase")


def in_order(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Check that the arrays belong together and put them in order of wavelength."""
    shapes = {k: v.shape for k, v in arrays.items()}
    if len(set(shapes.values())) > 1 or len(shapes["wavelength"]) != 1:
        listed = ", ".join(f"{k} {v}" for k, v in shapes.items())
        raise ValueError(f"got shapes {listed}; all must be one-dimensional and equally long")
    wavelength = arrays["wavelength"]
    if len(wavelength) < 2:
        raise ValueError(f"got {len(wavelength)} pixels; a spectrum has at least 2")
    step = np.diff(wavelength)
    if not (step > 0).all():
        order = np.argsort(wavelength, kind="stable")
        arrays = {k: v[order] for k, v in arrays.items()}
        step = np.diff(arrays["wavelength"])
    if twice := int(np.sum(step == 0)):
        first = arrays["wavelength"][np.argmin(step)]
        raise ValueError(
            f"{twice} wavelengths are given more than once (the first is {first:.6g} Å); "
            "merge the orders or average the duplicates first"
        )
    return arrays


def judge(
    flux: NDArray[np.float64], ivar: NDArray[np.float64] | None, flagged: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Return the final ivar and mask, and the count of bad pixels by reason."""
    nothing = np.zeros(len(flux), dtype=bool)
    flagged = nothing if flagged is None else flagged
    lost = ~np.isfinite(flux)
    if lost.all():
        raise ValueError(f"all {len(flux)} fluxes are NaN or infinite: there is nothing to fit")
    if not flux[~lost].any():
        raise ValueError(f"all {len(flux)} fluxes are zero: there is nothing to fit")
    gap = _gaps(flux) if ivar is None else nothing
    unweighted = nothing if ivar is None else ~(np.isfinite(ivar) & (ivar > 0))
    if unweighted.all():
        raise ValueError(
            f"none of the {len(flux)} pixels has a positive ivar (or uncertainty); "
            "leave it out to have the noise estimated"
        )
    mask = lost | unweighted | gap | flagged
    counts = {"n_nan": lost, "n_zero_ivar": unweighted, "n_gap": gap, "n_masked": flagged}
    summed = {reason: int(pixels.sum()) for reason, pixels in counts.items()}
    if mask.all():
        listed = ", ".join(f"{k} = {v}" for k, v in summed.items())
        raise ValueError(
            f"all {len(flux)} pixels are masked ({listed}); check that mask is True where bad"
        )
    if ivar is None:
        ivar = estimate_noise(flux, mask) ** -2.0
    return np.where(unweighted | lost, 0.0, ivar), mask, summed


def estimate_noise(
    flux: NDArray[np.float64], bad: NDArray[np.bool_], *, block: int = 300
) -> NDArray[np.float64]:
    """Estimate the standard deviation of each pixel from the scatter of the flux.

    DER_SNR (Stoehr et al. 2008, ASP Conf. Ser. 394, 505), equation 2, in blocks of pixels
    and interpolated between them: the median of ``|2 f[i] - f[i-2] - f[i+2]|``.  The step
    of two pixels keeps clear of the correlation that resampling puts between neighbours.
    Lines narrower than about 8 pixels have a second difference too, so the noise of a
    crowded spectrum comes out too large: by a factor of 1.6 for the Sun at R = 115,000
    around 5200 Å.  A whole block shares its noise, deep lines included, where photon noise
    would be lower.

    Parameters
    ----------
    flux : (n_pix,) float64
    bad : (n_pix,) bool
        Pixels to keep out.
    block : int
        Pixels per block; fewer than two blocks' worth make one.

    Returns
    -------
    (n_pix,) float64

    Raises
    ------
    ValueError
        When too few pixels are left, or their flux has no scatter.
    """
    clean = np.where(bad, np.nan, flux)
    scatter = SECOND_DIFFERENCE * np.abs(2 * clean[2:-2] - clean[:-4] - clean[4:])
    usable = np.flatnonzero(np.isfinite(scatter))
    if len(usable) < FEWEST_DIFFERENCES:
        raise ValueError(
            f"{len(flux)} pixels, {np.sum(bad)} of them bad, are too few to estimate the noise; "
            "give ivar= or uncertainty="
        )
    parts = np.array_split(usable, max(1, len(usable) // block))
    centres = np.array([part.mean() + 2 for part in parts])
    levels = np.array([np.median(scatter[part]) for part in parts])
    # A constant stretch is filling, not the absence of noise: its neighbours speak for it.
    if not (noisy := levels > 0).any():
        raise ValueError("the flux has no scatter to estimate the noise from; "
                         "give ivar= or uncertainty=")
    return np.asarray(np.interp(np.arange(len(flux)), centres[noisy], levels[noisy]))


def _gaps(flux: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the pixels, (n_pix,) bool, in or beside a run of exact zeros."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flux == 0, [False]])))
    gap = np.zeros(len(flux), dtype=bool)
    for start, stop in edges.reshape(-1, 2):
        if stop - start >= SHORTEST_GAP:
            gap[max(0, start - GAP_MARGIN):stop + GAP_MARGIN] = True
    return gap


def _brief(data: Any) -> str:
    text = repr(data).replace("\n", " ")
    return text if len(text) < 60 else text[:56] + " ..."
