"""MOOG's smoothed spectra: two lines of header, then wavelength and normalised flux.

``Smooth.f`` writes, once per synthesis in the file,

::

    the number of points per synthesis =   5001
    start =   5150.000     stop =   5200.000     step =      0.010
      5150.000     0.98765

The other file of MOOG's, raw, holds depths without wavelengths and is of no use here.
"""

from __future__ import annotations

import re
from pathlib import Path

from emulators.conversion.content import Content
from emulators.conversion.text import read_head, read_numbers

COUNT = "the number of points per synthesis ="


def read_moog(path: Path) -> Content:
    """Read a spectrum as MOOG's driver ``synth`` writes it (``smoothed_out``)."""
    head = read_head(path)
    if (several := path.read_text().count(COUNT)) > 1:
        raise ValueError(f"{several} syntheses in one file; run MOOG once per spectrum, or split "
                         "the file at the lines 'the number of points ...'")
    wavelength, flux = read_numbers(path, head)[:2]
    stated = re.search(re.escape(COUNT) + r"\s*(\d+)", "\n".join(head.lines))
    if stated and int(stated.group(1)) != len(flux):
        raise ValueError(f"{len(flux)} points, but its header says {stated.group(1)}: the file is "
                         "cut short; make it again")
    return Content(wavelength, flux)
