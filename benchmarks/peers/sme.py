"""PySME's own least-squares fit of one star: ``python -m benchmarks.peers.sme < STAR``.

STAR is ``{"labels", "wavelength", "flux", "sigma", "resolution", "vsini", "start"}``: all labels of
the star as they are known, and where Teff, log g and [M/H], which are fitted, begin.  The
resolution is that of instrument and pixel together, since PySME does not integrate over pixels.
Abundances keep their ratios to iron; atmospheres, lines and disk are those of the grid that
``mgb-fgk`` learnt from.  Prints ``{"seconds", "found"}``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any

import numpy as np

from emulators.synthesis.abundances import abundances
from emulators.synthesis.engine import PySME
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.synthesize import prepare

FREE = ("teff", "logg", "monh")
#: how far from the start it may go
REACH = np.array([1000.0, 1.0, 1.0])


def structure(star: dict[str, Any]) -> Any:
    """Return PySME's description of the star, its observation and how to model it."""
    from pysme.abund import Abund
    from pysme.atmosphere.atmosphere import Atmosphere

    maker, labels, wavelength = (prepare(GridRecipe.read("mgb-fgk")), star["labels"],
                                 np.array(star["wavelength"]))
    engine = maker.engine
    assert isinstance(engine, PySME)
    ratios = {n: v - labels["fe_h"] if n.endswith("_h") else v for n, v in labels.items()}

    def atmosphere(sme: Any, _: Any) -> Any:
        model = maker.models(sme.teff, sme.logg, sme.monh, 0.0)
        return Atmosphere(
            teff=sme.teff, logg=sme.logg, vturb=sme.vmic, method="routine", source=atmosphere,
            geom="PP", depth="RHOX", interp="RHOX", rhox=model.rhox, temp=model.temperature,
            xne=model.electron_density, xna=model.particle_density, rho=model.density)

    teff, logg, monh = star["start"]
    sme = engine._star(maker.models(teff, logg, monh, 0.0), abundances(ratios), labels["vmic"],
                       wavelength)
    sme.wint = None
    sme.specific_intensities_only, sme.normalize_by_continuum = False, True
    sme.abund = Abund(monh, abundances(ratios), "H=12")
    sme.monh = monh
    sme.atmo = atmosphere(sme, None)
    sme.wave, sme.spec = [wavelength], [np.array(star["flux"])]
    sme.uncs = [np.array(star["sigma"])]
    sme.vsini, sme.ipres, sme.iptype = star["vsini"], star["resolution"], "gauss"
    sme.vrad, sme.vrad_flag, sme.cscale_flag = 0.0, "none", "none"
    return sme


def main() -> None:
    """Fit, print."""
    from pysme.solve import solve

    logging.disable(logging.ERROR)
    star = json.load(sys.stdin)
    sme, start = structure(star), np.array(star["start"])
    clock = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sme = solve(sme, FREE, bounds=np.array([start - REACH, start + REACH]))
    seconds = time.perf_counter() - clock
    print(json.dumps({"seconds": seconds, "found": [float(sme[n]) for n in FREE]}))


if __name__ == "__main__":
    main()
