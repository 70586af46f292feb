"""What Korg.jl returns, written as columns: wavelength, flux, continuum, in vacuum.

Korg has no file of its own.  ``synth`` returns wavelengths in Å, the rectified flux and the
continuum; ``synthesize`` the flux before it is divided.  Written side by side
(``writedlm("s1.txt", [wls flux cntm])``) both are read here: where the flux is not normalised,
it is divided by the continuum.  Its wavelengths are those of vacuum, also where it was asked
with ``air_wavelengths=true``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emulators.conversion.content import Content
from emulators.conversion.text import read_head, read_numbers, read_text


def read_korg(path: Path) -> Content:
    """Read columns as Korg returns them, with or without names."""
    head = read_head(path)
    if head.names:
        content = read_text(path)
    else:
        numbers = read_numbers(path, head)
        content = Content(numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None)
    return replace(content, unit="Angstrom", medium="vacuum")
