"""From what a user gives to arms that a model can explain.

A user gives one spectrum or several of the same star: arms, orders, exposures.  Each comes
with an instrument, a continuum and perhaps a resolution of its own; each is cut to what may
show light from the emulator's range.  An arm that shows none is left out and reported; only
when none is left is there nothing to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emulators import Emulator
from stellarfit.arm import Arm
from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.continuum import Continuum, as_continuum
from stellarfit.instrument import Instrument, instrument_for, tabulated
from stellarfit.parameters import OF_ARMS
from stellarfit.readers import read
from stellarfit.spectrum import Spectrum, from_specutils

FEWEST_PIXELS = 20
#: how far (km/s) beyond the emulator's range light may be shifted from
LARGEST_SHIFT = 1000.0
#: what others call the options of a fit
MEANT = {**dict.fromkeys(("err", "error", "errors", "sigma", "flux_err", "flux_error", "noise"),
                         "uncertainty"), "fix": "fixed", "tie": "tied", "prior": "priors"}


@dataclass(frozen=True, eq=False)
class Observation:
    """A star as it was observed.

    Attributes
    ----------
    spectra : tuple of Spectrum
        Of the arms that overlap the emulator, in its medium, cut to what may matter.
    arms : tuple of Arm
        Their geometry.
    left_out : dict of str to str
        Why each other arm does not enter.
    """

    spectra: tuple[Spectrum, ...]
    arms: tuple[Arm, ...]
    left_out: dict[str, str]

    def own(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was said of parameters, by name, as it stands for the arms that are left.

        What belongs to an arm that is left out is left out with it; the only one left has the
        star's velocity.
        """
        gone = {f"{stage}_{arm}" for stage in OF_ARMS for arm in self.left_out}
        only = {f"{stage}_{self.arms[0].name}": stage for stage in OF_ARMS
                if len(self.arms) == 1 and self.arms[0].name}
        return {only.get(n, n): v for n, v in named.items() if n not in gone}

    @property
    def name(self) -> str:
        """Of the star."""
        return next((s.name for s in self.spectra if s.name), "")


def observe(
    spectrum: Any, flux: Any = None, *, emulator: Emulator,
    instrument: Any = None, resolution: Any = None, continuum: Any = 3, **options: Any,
) -> Observation:
    """Return the arms of one star.

    Parameters
    ----------
    spectrum, flux
        One spectrum as in :func:`as_spectrum`, or a list, or a mapping of names to spectra,
        of several.
    emulator : Emulator
    instrument, resolution, continuum
        Of all arms, or a list or mapping with one for each.
    **options
        Of :func:`as_spectrum`.

    Raises
    ------
    ValueError
        When nothing of what was given can be used, with the reason for each arm.
    """
    given = _named(spectrum, flux)
    each = [_for_each(what, value, list(given)) for what, value in (
        ("instrument", instrument), ("resolution", resolution), ("continuum", continuum))]
    spectra, arms, left_out = [], [], {}
    for name, one, its_instrument, its_resolution, its_continuum in zip(
            given, given.values(), *each, strict=True):
        try:
            cut = overlap(as_spectrum(one, flux, **options), emulator)
        except ValueError as error:
            if len(given) == 1:
                raise
            left_out[name] = str(error)
            continue
        known = _instrument(cut, its_instrument, its_resolution)
        known.check(cut.wavelength)
        arms.append(Arm(cut.wavelength, known, _continuum(its_continuum),
                        name if len(given) > 1 else "",
                        # What the user says of the instrument takes the place of the file's word.
                        cut.matrix if its_instrument is its_resolution is None else None))
        spectra.append(cut)
    if not arms:
        raise ValueError("none of the arms can be fitted: "
                         + "; ".join(f"{k}: {v}" for k, v in left_out.items()))
    return Observation(tuple(spectra), tuple(arms), left_out)


def as_spectrum(spectrum: Any, flux: Any = None, **options: Any) -> Spectrum:
    """Return a Spectrum from what a user has.

    A path, a Spectrum of ours or of specutils, anything with ``wavelength``, ``flux`` and perhaps
    ``flux_err``, as lightkurve names them, or wavelengths and fluxes.
    """
    if isinstance(spectrum, Spectrum):
        if flux is not None or options:
            raise ValueError("a Spectrum brings its own flux, medium and errors; give nothing else")
        return spectrum
    if isinstance(spectrum, (str, Path)):
        return read(spectrum, **_known(options, ("medium", "format", "hdu"), "a file"))
    if hasattr(spectrum, "spectral_axis"):
        return from_specutils(spectrum, **_known(options, ("medium",), "a specutils Spectrum"))
    if hasattr(spectrum, "wavelength") and hasattr(spectrum, "flux"):
        own = {k: getattr(spectrum, k, None) for k in ("mask", "medium")}
        own = {k: None if callable(v) else v for k, v in own.items()}  # a method of pandas
        if "ivar" not in options:
            own["uncertainty"] = getattr(spectrum, "flux_err", None)
        spectrum, flux, options = spectrum.wavelength, spectrum.flux, {**own, **options}
    if flux is None:
        raise ValueError(f"got a {type(spectrum).__name__} and no fluxes: call fit(wavelength, "
                         "flux, ivar=..., medium=...)")
    return Spectrum(spectrum, flux, **_known(
        options, ("ivar", "uncertainty", "mask", "medium", "name", "meta"),
        "arrays"))


def as_list(spectra: Any) -> list[Any]:
    """Return stars as a list; one that is alone is refused."""
    if isinstance(spectra, (str, Path, Spectrum, Mapping)):
        raise ValueError("expected a list of stars; for a single one, give [star]")
    return list(spectra)


def _known(options: dict[str, Any], valid: Sequence[str], what: str) -> dict[str, Any]:
    """Return options that go with a spectrum of some kind, or say which do not exist."""
    if wrong := [n for n in options if n not in valid]:
        meant = [MEANT[n] for n in wrong if n in MEANT]
        hint = f" (did you mean {', '.join(meant)}?)" if meant else ""
        raise ValueError(f"unknown option {', '.join(wrong)}{hint}: with {what} a fit takes "
                         f"{', '.join(valid)}, and what help(stellarfit.fit) lists")
    return options


def overlap(spectrum: Spectrum, emulator: Emulator) -> Spectrum:
    """Return the pixels that may show light from the emulator's range, in its medium.

    Raises
    ------
    ValueError
        When there are none.
    """
    spectrum = spectrum.to_medium(emulator.medium)
    low, high = emulator.wavelength_range
    name = f"'{spectrum.name or 'the spectrum'}'"
    first, last = spectrum.wavelength[[0, -1]]
    if first > high or last < low:
        raise ValueError(
            f"wavelengths run {first:.0f}-{last:.0f} Å, but emulator '{emulator.name}' covers "
            f"{low:.0f}-{high:.0f} Å: nothing to fit"
        )
    margin = 1.0 + LARGEST_SHIFT / SPEED_OF_LIGHT
    inside = ((spectrum.wavelength >= low / margin) & (spectrum.wavelength <= high * margin))
    if not (inside & spectrum.good).any():
        raise ValueError(
            f"all {inside.sum()} pixels of {name} between {low:.0f} and {high:.0f} Å, where "
            f"emulator '{emulator.name}' lives, are masked: nothing to fit"
        )
    cut = spectrum.cut(low / margin, high * margin)
    if (n_good := int(cut.good.sum())) < FEWEST_PIXELS:
        raise ValueError(
            f"only {n_good} usable pixels of {name} fall on emulator "
            f"'{emulator.name}' ({low:.0f}-{high:.0f} Å): too few to fit; at least "
            f"{FEWEST_PIXELS} are needed"
        )
    if not cut.flux[cut.good].any():
        raise ValueError(f"the flux is zero from {low:.0f} to {high:.0f} Å: nothing to fit")
    return cut


def _named(spectrum: Any, flux: Any) -> dict[str, Any]:
    """Return spectra by name: a single one has none."""
    if flux is not None or isinstance(spectrum, (str, Path, Spectrum)):
        return {"": spectrum}
    if isinstance(spectrum, Mapping):
        several = {str(k): v for k, v in spectrum.items()}
    elif isinstance(spectrum, (list, tuple)) and all(map(_is_spectrum, spectrum)):
        several = {str(i + 1): s for i, s in enumerate(spectrum)}
    else:
        return {"": spectrum}
    if not several:
        raise ValueError("no spectrum, or no arm with a good pixel: nothing to fit")
    if bad := [n for n in several if not n.replace("_", "").isalnum()]:
        raise ValueError(f"an arm is called {bad[0]!r}; names become those of parameters, so "
                         "expected letters and digits")
    return several


def _is_spectrum(item: Any) -> bool:
    return isinstance(item, (str, Path, Spectrum)) or hasattr(item, "spectral_axis")


def _for_each(what: str, value: Any, names: Sequence[str]) -> list[Any]:
    """Return one value for each arm."""
    if isinstance(value, Mapping):
        if wrong := [n for n in value if n not in names]:
            if names == [""]:
                raise ValueError(f"{what} is given by name, but a single spectrum has no arms")
            raise ValueError(f"{what} is given for {', '.join(map(repr, wrong))}; "
                             f"the arms are {', '.join(map(repr, names))}")
        return [value.get(n) for n in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(
                f"got {len(value)} of {what} for {len(names)} spectra of a star"
                + (": several of one star are fitted together as a list (--together)"
                   if len(names) == 1 else ""))
        return list(value)
    return [value] * len(names)


def _instrument(
    spectrum: Spectrum, instrument: str | Instrument | None, resolution: float | None
) -> Instrument:
    """Return the instrument that was named, or the one that the spectrum brings."""
    if instrument is not None or resolution is not None:
        return instrument_for(instrument, resolution)
    if spectrum.matrix is not None:
        return Instrument("resolution matrix", spectrum.matrix.resolution(spectrum.wavelength))
    if spectrum.resolution is not None:
        return tabulated("resolution of the file", list(zip(
            spectrum.wavelength.tolist(), spectrum.resolution.tolist(), strict=True)))
    return instrument_for(None, None)


def _continuum(value: Any) -> Continuum:
    return as_continuum(3 if value is None else value)


def concatenated(spectra: Sequence[Spectrum], of: Callable[[Spectrum], Any]) -> Any:
    """Return something of each spectrum, one after the other."""
    return np.concatenate([of(s) for s in spectra])
