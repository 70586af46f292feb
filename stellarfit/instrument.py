"""Instruments: what stands between a star's spectrum and the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from emulators.labels import unknown_names


@dataclass(frozen=True)
class Instrument:
    """A spectrograph with a Gaussian line-spread function of constant resolution.

    Parameters
    ----------
    name : str
    resolution : float
        R = wavelength / FWHM of the line-spread function.
    reference : str
        Where the resolution comes from.
    """

    name: str
    resolution: float
    reference: str = ""

    def __str__(self) -> str:
        bare = f"R = {self.resolution:g}"
        return bare if self.name == bare else f"{self.name} ({bare})"

    def __post_init__(self) -> None:
        if not 50 <= self.resolution <= 1e7:
            raise ValueError(
                f"R = {self.resolution:g} is no resolution of a spectrograph; "
                f"expected wavelength / FWHM between 50 and 1e7"
            )


PRESETS = {
    i.name: i
    for i in (
        Instrument("harps", 115_000, "Mayor et al. 2003, The Messenger 114, 20"),
        Instrument("feros", 48_000, "Kaufer et al. 1999, The Messenger 95, 8"),
        Instrument("gaia-eso-uves580", 47_000, "Sacco et al. 2014, A&A 565, A113"),
        Instrument("hectochelle-rv31", 32_000, "Szentgyorgyi et al. 2011, PASP 123, 1188"),
        Instrument("lamost-mrs", 7_500, "Liu et al. 2020, arXiv:2005.07210"),
        Instrument("sdss", 2_000, "Smee et al. 2013, AJ 146, 32"),
        Instrument("lamost-lrs", 1_800, "Zhao et al. 2012, RAA 12, 723"),
    )
}


def instrument_for(
    instrument: str | Instrument | None = None, resolution: float | None = None
) -> Instrument:
    """Return the instrument of a preset's name or a bare resolution.

    Raises
    ------
    ValueError
        When neither or both are given, and for an unknown name, listing the presets.
    """
    if (instrument is None) == (resolution is None):
        raise ValueError(
            "say either instrument= or resolution= (--instrument, --resolution; R = wavelength / "
            f"FWHM): the width of lines is not known without it; instruments: {', '.join(PRESETS)}"
        )
    if resolution is not None:
        return Instrument(f"R = {resolution:g}", float(resolution))
    if isinstance(instrument, Instrument):
        return instrument
    if instrument not in PRESETS:
        raise unknown_names([str(instrument)], list(PRESETS), what="instrument")
    return PRESETS[instrument]
