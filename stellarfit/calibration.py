"""What the physics gets wrong, as a star of known labels shows it.

A benchmark star is fitted with its labels held at their known values; what its spectrum
then lacks of the model is an error of the line data, of the model atmosphere or of the
emulator, and other stars have it too.  :class:`Calibration` keeps that signed residual in
the star's rest frame.  Like the emulator's own errors it passes through the stages of
whoever observes next, and its square there adds to the noise: pixels that the physics gets
wrong count for less, by as much as they are wrong at that resolution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from emulators import Emulator
from emulators.labels import is_abundance
from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.hdf5 import in_memory, opened, write_arrays
from stellarfit.result import FitResult

if TYPE_CHECKING:
    from stellarfit.forward import ForwardModel

Array = NDArray[np.float64]
FORMAT = "stellarfit-calibration"


@dataclass(frozen=True, eq=False)
class Calibration:
    """The residual of a benchmark star at an emulator's training pixels.

    Attributes
    ----------
    wavelength : (n_pix,) float64
        Training pixels, Angstrom.
    residual : (n_pix,) float64
        (Observed - model) / continuum in the rest frame; where the star has no pixel, the
        robust scatter of the rest.
    star : str
    labels : dict of str to float
        What was held to be true of it.
    emulator : str
        Identity of the one it was compared with.
    """

    wavelength: Array
    residual: Array
    star: str
    labels: dict[str, float]
    emulator: str

    @property
    def identity(self) -> str:
        """Star and emulator, in a line."""
        return f"{self.star or 'a star'} with {self.emulator}"

    def check(self, emulator: Emulator) -> None:
        """Refuse an emulator of other pixels.

        Raises
        ------
        ValueError
        """
        if len(self.wavelength) != len(emulator.pixels) or not np.allclose(
                self.wavelength, emulator.pixels, rtol=1e-7):
            raise ValueError(
                f"the calibration ({self.identity}) covers {self.wavelength[0]:.0f}-"
                f"{self.wavelength[-1]:.0f} Å on {len(self.wavelength)} pixels, not those of "
                f"emulator '{emulator.name}'; make one with stellarfit calibrate"
            )

    def seen_by(self, model: ForwardModel, theta: Array) -> Array:
        """Return the residual (n_pix,) as a model's pixels see it at theta (n_free,)."""
        device = model.emulator.device
        rest = torch.as_tensor(self.residual[model.pixels], device=device)[None]
        at = torch.as_tensor(theta, dtype=torch.float64, device=device)
        return np.asarray(model.through(rest, at)[0].double().cpu().numpy())

    def save(self, path: str | Path) -> Path:
        """Write the calibration to an HDF5 file with checksums, whole or not at all."""
        with in_memory(path) as file:
            file.attrs["format"] = FORMAT
            file.attrs["state"] = json.dumps(
                {"star": self.star, "labels": self.labels, "emulator": self.emulator})
            write_arrays(file, {"wavelength": self.wavelength, "residual": self.residual})
        return Path(path)


def load_calibration(path: str | Path) -> Calibration:
    """Read what :meth:`Calibration.save` wrote.

    Raises
    ------
    FileNotFoundError
    ValueError
        When the file is damaged or something else.
    """
    with opened(path, "calibration", FORMAT) as file:
        return Calibration(file["wavelength"][()], file["residual"][()],
                           **json.loads(file.attrs["state"]))


def calibrate(
    spectrum: Any, flux: Any = None, *, labels: Mapping[str, float],
    free: tuple[str, ...] = ("rv", "vsini"), **fit_options: Any,
) -> tuple[Calibration, FitResult]:
    """Learn from a star of known labels which pixels a model gets wrong.

    Parameters
    ----------
    spectrum, flux
        As in :func:`stellarfit.fit`; of high signal-to-noise, for its noise is learnt too.
    labels : mapping of str to float
        What is known of the star: all labels that are no abundances (``teff``, ``logg``,
        ``vmic``), ``fe_h``, and any ratios that are not solar.
    free : tuple of str
        What is fitted nevertheless.
    **fit_options
        Of :func:`stellarfit.fit`, all but `fixed` and `emulator_error`.

    Returns
    -------
    Calibration
    FitResult
        Of the fit it was taken from.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`stellarfit.fit`, and when something is not known of the star.

    Examples
    --------
    >>> sun = {"teff": 5772, "logg": 4.438, "vmic": 1.0, "fe_h": 0.0}
    >>> calibration, fit = calibrate(
    ...     "sun.fits", labels=sun, instrument="harps")                    # doctest: +SKIP
    >>> calibration.save("sun.h5")                                         # doctest: +SKIP
    """
    from stellarfit.fitting import fit
    from stellarfit.preparing import DEFAULT_EMULATOR, loaded

    if taken := [n for n in ("fixed", "emulator_error") if n in fit_options]:
        raise ValueError(f"{', '.join(taken)}: a calibration decides that itself; say what is "
                         "known of the star with labels=")
    emulator = loaded(fit_options.pop("emulator", DEFAULT_EMULATOR))
    known = {*labels, *free, *(fit_options.get("tied") or ())}
    if missing := [n for n in emulator.labels.names if n not in known
                   and (n == "fe_h" or not is_abundance(n)) and n != "he_frac"]:
        raise ValueError(f"{', '.join(missing)} must be known of the star as well: "
                         f"labels={{'{missing[0]}': ...}}, -l {missing[0]}=...")
    result = fit(spectrum, flux, fixed=dict(labels), free=list(free), emulator=emulator,
                 emulator_error=False, **fit_options)
    residual = at_rest(result, emulator)
    return Calibration(emulator.pixels, residual, result.name, dict(labels),
                       emulator.identity), result


def at_rest(result: FitResult, emulator: Emulator) -> Array:
    """Return the relative residual of a fit, averaged over each training pixel, (n_pix,)."""
    step, low = emulator.log_step, float(np.log(emulator.pixels[0]))
    total, count = np.zeros(len(emulator.pixels)), np.zeros(len(emulator.pixels))
    for arm in result.by_arm():
        rest = np.log(arm.wavelength) - np.arctanh(arm.rv / SPEED_OF_LIGHT)
        place = (rest - low) / step
        relative = (arm.flux - arm.model) / arm.continuum
        # Pixels coarser than the training's are drawn out over the ones they cover.
        fine = np.arange(len(total))
        if np.median(np.diff(place)) > 1.0:
            known = np.interp(fine, place, arm.used.astype(float), left=0, right=0) > 0.99
            total += np.where(known, np.interp(fine, place, relative), 0.0)
            count += known
            continue
        index = np.rint(place).astype(int)
        keep = arm.used & (index >= 0) & (index < len(total))
        np.add.at(total, index[keep], relative[keep])
        np.add.at(count, index[keep], 1.0)
    known = count > 0
    mean = np.divide(total, count, out=np.zeros(len(total)), where=known)
    scatter = 1.4826 * float(np.median(np.abs(mean[known]))) if known.any() else 0.0
    return np.where(known, mean, scatter)
