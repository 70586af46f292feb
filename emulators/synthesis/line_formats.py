"""Line lists in the formats of others: Turbospectrum's, and VALD's "extract stellar".

:func:`read_lines` tells them, and our own HDF5, apart by what is in the file.  A list that was
read once can be kept by :meth:`~emulators.synthesis.lines.LineList.write`, which is faster to
read and needs no PySME.
"""

from __future__ import annotations

import logging
import re
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import h5py
import numpy as np

from emulators.synthesis.elements import ELEMENTS
from emulators.synthesis.isotopes import molecule_fraction
from emulators.synthesis.lines import LineList

#: names of the molecules that have lines in the lists of Turbospectrum, as SME knows them
MOLECULES = {
    101: "H2", 106: "CH", 107: "NH", 108: "OH", 109: "HF", 111: "NaH", 112: "MgH", 113: "AlH",
    114: "SiH", 116: "HS", 117: "HCl", 120: "CaH", 122: "TiH", 124: "CrH", 125: "MnH",
    126: "FeH", 606: "C2", 607: "CN", 608: "CO", 614: "SiC", 616: "CS", 707: "N2", 708: "NO",
    714: "SiN", 808: "O2", 812: "MgO", 813: "AlO", 814: "SiO", 820: "CaO", 821: "ScO",
    822: "TiO", 823: "VO", 824: "CrO", 826: "FeO", 839: "YO", 840: "ZrO", 857: "LaO",
    1416: "SiS", 10108: "H2O", 10607: "HCN", 60606: "C3",
}
VALD = "VALD3 (Ryabchikova et al. 2015, Phys. Scr. 90, 054005)"
# '0608.012016         '    1      125497, but one that is broken too, to be told of.
_CODE = re.compile(r"\s*'\s*(\d+)\.(\d+)\s*'(?:\s+(\d+)\b)?")
_VALD_COLUMNS = re.compile(r"\bWL_(?:air|vac)\(")


def read_lines(path: str | Path) -> LineList:
    """Read a line list in any of the formats we know.

    Parameters
    ----------
    path : path
        Our HDF5, a list of Turbospectrum, or one that VALD extracted.

    Returns
    -------
    LineList

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is none of these, or is broken.
    ModuleNotFoundError
        For VALD's without the extra ``stellarfit[synthesis]``.

    Examples
    --------
    >>> lines = read_lines("vald-5150-5300.lin")  # doctest: +SKIP
    >>> lines.write("vald-5150-5300.h5")          # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no line list at '{path}'")
    if h5py.is_hdf5(path):
        return LineList.read(path)
    with open(path, encoding="latin-1") as stream:
        head = list(islice((text for text in stream if text.strip()), 50))
    if head and _CODE.match(head[0]):
        return read_turbospectrum(path)
    if any(_VALD_COLUMNS.search(text) for text in head):
        return read_vald(path)
    raise ValueError(
        f"'{path}' is no line list: it must be our HDF5, a list of Turbospectrum, which starts "
        f"with a code in quotes such as '26.000', or one of VALD, whose head names WL_air or "
        f"WL_vac"
    )


def read_turbospectrum(path: str | Path, *, source: str | None = None) -> LineList:
    """Read lines of atoms and molecules in the format of Turbospectrum (Plez 2012, ascl:1205.004).

    Blocks start with a header of two lines: a code, such as ``'56.137'`` for (137)Ba or
    ``'0607.013014'`` for (13)C(14)N, with the stage of ionisation and the number of lines; and
    a name.  A line gives wavelength in air, excitation, log gf, damping, statistical weight,
    radiative width per second and sometimes the Stark width before the first quotation mark.

    Parameters
    ----------
    path : path
    source : str, optional
        Citation of all lines; the name of the file by default.

    Raises
    ------
    ValueError
        When a header or a line cannot be read, or its atom, molecule or isotope is unknown,
        with its number.
    """
    path = Path(path)
    source = source or f"{path.name} (Turbospectrum)"
    species, scale, rows, named = "", 0.0, [], True
    with open(path, encoding="latin-1") as stream:
        for number, text in enumerate(stream, start=1):
            try:
                if match := _CODE.match(text):
                    species, scale = _species(*match.groups())
                    named = False
                elif text.lstrip().startswith("'"):
                    if named:
                        raise ValueError(f"{text.strip()!r} is no code of an atom or molecule")
                    named = True
                elif text.strip():
                    rows.append(_row(text, species, scale, source))
            except ValueError as error:
                raise ValueError(f"'{path}', line {number}: {error}") from error
    if not rows:
        raise ValueError(f"'{path}' has no lines")
    return _from_rows(rows)


def _species(whole: str, decimals: str, stage: str | None) -> tuple[str, float]:
    """Return name and logarithm of the isotopic fraction for a code.

    It has two digits to an atom and, behind the point, three to the mass of its isotope, 0 for
    all of them.
    """
    code, whole = f"{whole}.{decimals}", whole.lstrip("0")
    digits = whole.zfill(len(whole) + len(whole) % 2)
    atoms = [int(digits[i:i + 2]) for i in range(0, len(digits), 2)]
    if stage is None:
        raise ValueError(f"no stage of ionisation after the code {code}")
    if not atoms or not all(1 <= atom <= len(ELEMENTS) for atom in atoms):
        raise ValueError(f"no atom or molecule has the code {code}")
    name = ELEMENTS[atoms[0] - 1] if len(atoms) == 1 else MOLECULES.get(int(whole))
    if name is None:
        raise ValueError(f"no molecule of the code {whole} is known: take its lines out, or add "
                         f"it to emulators.synthesis.line_formats.MOLECULES")
    padded = decimals.ljust(3 * len(atoms), "0")
    masses = [int(padded[i:i + 3]) for i in range(0, 3 * len(atoms), 3)]
    fraction = molecule_fraction((ELEMENTS[atom - 1], mass)
                                 for atom, mass in zip(atoms, masses, strict=True))
    return f"{name} {int(stage)}", float(np.log10(fraction))


def _row(text: str, species: str, scale: float, source: str) -> tuple[Any, ...]:
    """Return the columns of a line of Turbospectrum's."""
    if not species:
        raise ValueError("a line before any header")
    values = [float(value) for value in text.split("'")[0].split()]
    if len(values) < 6:
        raise ValueError(f"{len(values)} numbers before the first quotation mark instead of 6 or 7")
    wavelength, excitation, log_gf, damping, _, rad, *stark = values
    # Between 0 and 20 it is a factor on Unsöld's formula: the code's own, then.
    vdw = damping if damping < 0 or damping > 20 else 0.0
    return (wavelength, species, excitation, log_gf, scale, np.log10(rad) if rad > 0 else 0.0,
            stark[0] if stark else 0.0, vdw, source)


def _from_rows(rows: list[Any]) -> LineList:
    """Return the list of lines given in the order of the columns."""
    rows = sorted(rows, key=lambda row: row[0])
    columns: list[Any] = [np.array(column) for column in zip(*rows, strict=True)]
    return LineList(*columns)


def read_vald(path: str | Path) -> LineList:
    """Read lines that VALD extracted, in its short or long format, through PySME's reader.

    The head of the file says whether wavelengths are in air or vacuum, in Angstrom or nm, and
    excitation in eV or cm^-1.  By default VALD scales gf by the fraction of the isotope, and
    says so at the end; `log_fraction` is then 0.  Where it says that they were not scaled, the
    isotopes are those that the references name, as (48)TiO.

    Parameters
    ----------
    path : path
        As VALD sent it, unpacked, with abundances and references at the end.

    Raises
    ------
    ValueError
        When it cannot be read, with the reason.
    ModuleNotFoundError
        Without the extra ``stellarfit[synthesis]``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no line list at '{path}'")
    try:
        from pysme.linelist.vald import ValdFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"'{path}' is read by PySME, which is not installed: pip install "
            f"'stellarfit[synthesis]'") from error
    logging.getLogger("pysme").setLevel(logging.ERROR)  # it warns of each citation it lacks
    try:
        with np.errstate(invalid="ignore", divide="ignore"):  # VALD's own abundances, unused
            vald = ValdFile(str(path))
        table = {name: np.asarray(vald[name]) for name in
                 ("wlcent", "species", "excit", "gflog", "gamrad", "gamqst", "gamvw", "reference")}
    except Exception as error:  # it meets a broken file with any of a dozen kinds
        raise ValueError(f"'{path}' is not as VALD writes it ({type(error).__name__}: "
                         f"{shorten(str(error), 120)}): extract it again, whole and in Angstrom "
                         f"or nm") from error
    if wrong := [n for n in ("wlcent", "excit", "gflog", "gamrad", "gamqst", "gamvw")
                 if table[n].dtype.kind not in "fi" or not np.isfinite(table[n]).all()]:
        raise ValueError(f"'{path}' is not as VALD writes it: its {', '.join(wrong)} are not all "
                         f"numbers")
    order = np.argsort(table["wlcent"], kind="stable")
    table = {name: values[order] for name, values in table.items()}
    references = [str(reference) for reference in table["reference"]]
    scaled = "were NOT scaled" not in "".join(getattr(vald, "_ref_record", []))
    return LineList(
        wavelength=table["wlcent"], species=table["species"].astype(str),
        excitation=table["excit"], log_gf=table["gflog"],
        log_fraction=np.zeros(len(references)) if scaled else _isotopes(references),
        gamma_rad=table["gamrad"], gamma_stark=table["gamqst"], gamma_vdw=table["gamvw"],
        source=_sources(references), medium={"air": "air", "vac": "vacuum"}[vald.medium],
    )


def _isotopes(references: list[str]) -> Any:
    """Return the logarithm of the fraction of the isotopes that references name, (n_line,)."""
    found = [re.findall(r"\((\d{1,3})\)([A-Z][a-z]?)", text) for text in references]
    return np.log10([molecule_fraction((element, int(mass)) for mass, element in nuclei)
                     for nuclei in found])


def _sources(references: list[str]) -> Any:
    """Return the citation of each line: VALD, and its tag of where gf is from, (n_line,)."""
    tags = [re.search(r"\bgf:([\w+-]+)", text) for text in references]
    named = np.array([f"gf of {tag[1]} in {VALD}" if tag else VALD for tag in tags])
    # So many do not fit into our file, and VALD's own references tell them anyway.
    return named if len(np.unique(named)) <= 256 else np.full(len(tags), VALD)
