"""Posteriors of the Sun and Procyon: ``python -m benchmarks.star_posteriors SPECTRA``.

SPECTRA is a folder with ``sun_harps.fits`` and ``procyon_harps.fits`` (R = 115,000).  Twelve
abundances, Teff, log g, vmic, rv and vsini are free; ``mgb-fgk``, emcee.  The Sun is sampled
without and with the mask of what the synthesis gets wrong in it, Procyon with it.  Writes
``benchmarks/results/star-posteriors.json`` and pictures into ``docs/images/``; prints tables.
Chains are kept in ``out/star-posteriors/``: what is there is drawn and tabulated anew without
being sampled again, and keeps the time that it took.
"""

from __future__ import annotations

import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

import stellarfit
from benchmarks.real_stars import IMAGES, LITERATURE, RESULTS, SOLAR, row
from stellarfit.quality import names_of

FREE = ("teff", "logg", "vmic", "fe_h", "c_fe", "mg_fe", "ca_fe", "sc_fe", "ti_fe", "v_fe",
        "cr_fe", "mn_fe", "ni_fe", "y_fe", "nd_fe", "rv", "vsini")
ELEMENTS = tuple(n.split("_")[0] for n in FREE if n.endswith(("_h", "_fe")))
#: photospheric 12 + log10(N / N_H) and error: Asplund et al. 2009 (ARA&A 47, 481, table 1)
ASPLUND = {"fe": (7.50, 0.04), "c": (8.43, 0.05), "mg": (7.60, 0.04), "ca": (6.34, 0.04),
           "sc": (3.15, 0.04), "ti": (4.95, 0.05), "v": (3.93, 0.08), "cr": (5.64, 0.04),
           "mn": (5.43, 0.04), "ni": (6.22, 0.04), "y": (2.21, 0.05), "nd": (1.42, 0.04)}
KEPT = Path("out") / "star-posteriors"
STARS = {"sun": ("sun", False), "sun, masked": ("sun", True), "procyon": ("procyon", True)}


@click.command(help=__doc__)
@click.argument("spectra", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sampler", default="emcee", show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(spectra: Path, sampler: str, threads: int) -> None:
    """Sample, tabulate, draw."""
    torch.set_num_threads(threads)
    mask, _ = stellarfit.calibrate(spectra / "sun_harps.fits", labels=SOLAR, instrument="harps",
                                   free=("rv", "vsini", "vmac"))
    posteriors, report = {}, {}
    path = RESULTS / "star-posteriors.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    KEPT.mkdir(parents=True, exist_ok=True)
    for name, (star, masked) in STARS.items():
        stem = name.replace(", ", "-")
        chains = KEPT / f"{stem}-chains.h5"
        known = chains.exists() and before.get(name, {}).get("seconds")
        clock = time.perf_counter()
        posterior = stellarfit.sample(
            spectra / f"{star}_harps.fits", instrument="harps", free=FREE, sampler=sampler,
            calibration=mask if masked else None, max_steps=1000, checkpoint=chains)
        seconds = known or time.perf_counter() - clock
        posteriors[name] = posterior
        if masked:
            pairs = [n for n in FREE if n not in ("rv", "vsini")]
            draw(posterior.corner(names=pairs), IMAGES / f"{star}-corner.png")
            draw(posterior.plot(), IMAGES / f"{star}-predictive.png")
        report[name] = kept(posterior, seconds)
        print(f"\n{name}: {seconds:.0f} s\n{posterior.summary()}\n{stellarfit.compare(posterior)}",
              flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    tables(posteriors)


def draw(figure: Any, path: Path) -> None:
    """Write a picture in few colours, which takes a third of the space."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(32).save(path, optimize=True)


def kept(posterior: stellarfit.Posterior, seconds: float) -> dict[str, Any]:
    """Return what is written of a posterior."""
    names = (*posterior.names, *posterior.derived)
    return {"seconds": round(seconds, 1), "converged": posterior.converged,
            "verdict": posterior.verdict, "acceptance": posterior.diagnosis.acceptance,
            "steps": posterior.chain.shape[1], "walkers": posterior.chain.shape[2],
            "ess": posterior.diagnosis.ess.tolist(), "tau": posterior.diagnosis.tau.tolist(),
            "intervals": {n: posterior.interval(n) for n in names},
            "fit": {n: [posterior.fit.labels[n], posterior.fit.errors[n]]
                    for n in posterior.names},
            "compare": {d.name: d.words for d in stellarfit.compare(posterior).differences},
            "flags": names_of(posterior.fit.flags), "provenance": posterior.fit.provenance}


def tables(posteriors: dict[str, stellarfit.Posterior]) -> None:
    """Print atmospheric parameters against the literature, then abundances."""
    print("\n" + row("", *posteriors, *(f"literature, {s}" for s in LITERATURE if s in STARS)))
    for name in ("teff", "logg", "vmic", "vsini"):
        print(row(name, *(said(p, name) for p in posteriors.values()),
                  *(LITERATURE[s].get(name, "") for s in LITERATURE if s in STARS)))
    print("\n" + row("element", *(f"[X/H], {n}" for n in posteriors),
                     "Procyon - Sun, both masked", "A(X), masked Sun", "Asplund et al. 2009"))
    for element in ELEMENTS:
        name, (scale, error) = f"{element}_h", ASPLUND[element]
        middle = {n: p.interval(name)[1] for n, p in posteriors.items()}
        print(row(element.capitalize(), *(said(p, name) for p in posteriors.values()),
                  f"{middle['procyon'] - middle['sun, masked']:+.2f}",
                  f"{scale + middle['sun, masked']:.2f}", f"{scale:.2f} ± {error:.2f}"))


def said(posterior: stellarfit.Posterior, name: str) -> str:
    """Return median and 68 % interval of a parameter."""
    low, median, high = posterior.interval(name)
    digits = 0 if name == "teff" else 2 if name in ("vmic", "vsini") else 3
    sign = "+" if name.endswith("_h") else ""
    return (f"{median:{sign}.{digits}f} (−{median - low:.{digits}f}, +{high - median:.{digits}f})")


if __name__ == "__main__":
    main()
