"""Line lists of Turbospectrum and VALD say in our columns what they say in theirs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulators.files import shipped_folder
from emulators.synthesis.elements import ELEMENTS
from emulators.synthesis.isotopes import FRACTIONS, fraction
from emulators.synthesis.line_formats import read_lines, read_turbospectrum, read_vald
from emulators.synthesis.lines import LineList

TURBOSPECTRUM = """\
'  26.000            '    1         2
'Fe I    NLTE'
  5171.596  1.485 -1.721  281.253    9.0  1.15E+07 -6.300 's' 'p'   0.0    1.0 'Fe I a3F z3F*'  5 60
  5165.407  4.220 -0.036   -7.420    9.0  2.00E+08 's' 'p'   0.0    1.0 'Fe I LS:y5F* LS:f5G'
'  56.137            '    2         1
'Ba II   LTE'
  5853.675  0.604 -1.867    2.500    4.0  0.00E+00 'x' 'x'   0.0    1.0 'Ba II'
'0607.013014         '    1         1
'13C14N   Brooke'
  5160.1230   0.512   -2.047 .00   41.  0.100E+01 'X' 'X'   0.0    1.0 'A 2Pi - X 2Sig 5 0'
' 822.000048         '    1         1
'48TiO    Plez'
  5167.7000   0.100   -0.300 .00   21.  0.100E+01 'X' 'X'   0.0    1.0 'gamma'
"""
REFERENCES = """\
* oscillator strengths were {not_}scaled by the solar isotopic ratios.
 References:
  1. Fe I: Nave et al. 1994
  2. Wisconsin exp. data
"""
SHORT_HEAD = """\
 5160.00000, 5190.00000, 3, 8651, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                 Damping parameters   Lande  Central
Spec Ion       {wave} {energy} Vmic log gf*  Rad.   Stark  Waals  factor  depth  Reference
"""
SHORT = """\
'Fe 1',       5171.59640,  1.4849, 1.0, -1.793, 7.050,-6.300, 281.253,  1.010, 0.841, \
'   1 wl:N94   2 gf:BWL   1 N94   1 N94   1 N94   1 N94   1 N94   3 BA-J Fe            '
'Mg 1',       5183.60420,  2.7166, 1.0, -0.239, 7.990,-5.450,-7.231,  1.250, 0.928, \
'   4 wl:KP   5 gf:ATJL   4 KP   4 KP   4 KP   4 KP   4 KP Mg            '
'TiO 1',      5184.00000,  0.1000, 1.0, -0.300, 6.944, 0.000, 0.000, 99.000, 0.123, \
'   6 wl:Plez98   6 gf:Plez98 (48)TiO       '
"""
LONG_HEAD = """\
 5160.00000, 5190.00000, 2, 8651, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                                     Lande factors        \
Damping parameters  Central
Spec Ion       {wave}  log gf* {energy} J lo  {upper} J up  lower   upper    mean   \
Rad.   Stark  Waals  depth
"""
LONG = """\
'Fe 1',       {w1},  -1.793, {e1},  4.0, {u1},  4.0,  1.250,  0.760,  1.010, 7.050,-6.300,-7.687, \
0.841,
'  LS                                                                       3d7.(4F).4s a3F'
'  LS                                                           3d6.(5D).4s.4p.(3P*) z3F*'
'_          Kurucz FeI 2014    1 wl:N94   2 gf:BWL   1 N94   1 N94   1 N94   1 N94            Fe'
'Mg 1',       {w2},  -0.239, {e2},  2.0, {u2},  1.0,  1.500,  2.000,  1.250, 7.990,-5.450,-7.231, \
0.928,
'  LS                                                                            3s.3p 3P*'
'  LS                                                                             3s.4s 3S'
'_          NIST               4 wl:KP   5 gf:ATJL   4 KP   4 KP   4 KP   4 KP              Mg'
"""


def tail(*, scaled: bool = True) -> str:
    """Return what follows the lines: the model, 99 abundances, the references."""
    parts = [f"'{e:2s}:{0.92 if e == 'H' else -1.11 if e == 'He' else -5.0:6.2f}'"
             for e in ELEMENTS]
    rows = [parts[:2], *(parts[i:i + 6] for i in range(2, len(parts), 6))]
    text = "".join(",".join(row) + ",\n" for row in rows).rstrip("\n")
    return (f"'castelli_ap00k2_T05750G45.krz',\n{text}'END'\n"
            + REFERENCES.format(not_="" if scaled else "NOT "))


def short(wave: str = "WL_air(A)", energy: str = "Excit(eV)", *, scaled: bool = True) -> str:
    return SHORT_HEAD.format(wave=wave, energy=energy) + SHORT + tail(scaled=scaled)


def written(folder: Path, text: str) -> Path:
    path = folder / "some.list"
    path.write_text(text)
    return path


def test_turbospectrum_gives_atoms_and_molecules_with_their_isotopes(tmp_path: Path) -> None:
    lines = read_lines(written(tmp_path, TURBOSPECTRUM))
    assert lines.medium == "air"
    assert lines.species.tolist() == ["CN 1", "Fe 1", "TiO 1", "Fe 1", "Ba 2"]
    assert lines.wavelength.tolist() == [5160.123, 5165.407, 5167.7, 5171.596, 5853.675]
    assert lines.excitation.tolist() == [0.512, 4.220, 0.1, 1.485, 0.604]
    assert lines.log_gf.tolist() == [-2.047, -0.036, -0.3, -1.721, -1.867]
    np.testing.assert_allclose(
        10.0**lines.log_fraction, [0.011 * 0.99636, 1.0, 0.7372, 1.0, 0.11232], rtol=1e-12)
    np.testing.assert_allclose(lines.gamma_rad, [0, np.log10(2e8), 0, np.log10(1.15e7), 0])
    assert lines.gamma_stark.tolist() == [0, 0, 0, -6.3, 0]
    # a factor on Unsöld's formula is left to the synthesis code
    assert lines.gamma_vdw.tolist() == [0, -7.42, 0, 281.253, 0]


@pytest.mark.parametrize(("old", "new", "said"), [
    ("'  26.000", "'  00.000", "line 1: no atom or molecule has the code 00.000"),
    ("'    1         2", "'", "line 1: no stage of ionisation after the code 26.000"),
    ("'0607.013014", "'3992.000000", "line 8: no molecule of the code 3992 is known"),
    ("  56.137", "  56.139", "line 5: no isotope of mass 139 of Ba on Earth; known: 130, 132"),
    ("  5853.675  0.604", "  5853.675  O.604", "line 7: could not convert"),
    ("4.0  0.00E+00", "4.0", "line 7: 5 numbers before the first quotation mark"),
    ("'  56.137            '    2         1", "'Ba 137'",
     "line 5: \"'Ba 137'\" is no code of an atom or molecule"),
])
def test_what_turbospectrum_has_broken_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in TURBOSPECTRUM
    with pytest.raises(ValueError, match=said):
        read_turbospectrum(written(tmp_path, TURBOSPECTRUM.replace(old, new)))


def test_a_line_before_any_header_is_an_error(tmp_path: Path) -> None:
    headless = "\n".join(TURBOSPECTRUM.splitlines()[2:])
    with pytest.raises(ValueError, match="line 1: a line before any header"):
        read_turbospectrum(written(tmp_path, headless))


def test_isotopes_of_an_element_make_it_up() -> None:
    for element, isotopes in FRACTIONS.items():
        assert sum(isotopes.values()) == pytest.approx(1.0, abs=1.1e-4), element
    assert fraction("Ti", 0) == 1.0
    with pytest.raises(ValueError, match="no isotope of mass 98 of Tc on Earth; known: none"):
        fraction("Tc", 98)


class TestVald:
    """Through PySME's reader."""

    @pytest.fixture(autouse=True)
    def _pysme(self) -> None:
        pytest.importorskip("pysme", reason="needs the extra [synthesis]")

    def test_the_short_format_lands_in_our_columns(self, tmp_path: Path) -> None:
        lines = read_lines(written(tmp_path, short()))
        assert lines.medium == "air"
        assert lines.species.tolist() == ["Fe 1", "Mg 1", "TiO 1"]
        assert lines.wavelength.tolist() == [5171.5964, 5183.6042, 5184.0]
        assert lines.excitation.tolist() == [1.4849, 2.7166, 0.1]
        assert lines.log_gf.tolist() == [-1.793, -0.239, -0.3]
        assert lines.gamma_rad.tolist() == [7.05, 7.99, 6.944]
        assert lines.gamma_stark.tolist() == [-6.3, -5.45, 0.0]
        assert lines.gamma_vdw.tolist() == [281.253, -7.231, 0.0]
        assert (lines.log_fraction == 0.0).all()
        assert lines.source[0].startswith("gf of BWL in VALD3 (Ryabchikova et al. 2015")

    @pytest.mark.parametrize(("wave", "energy", "values"), [
        ("WL_vac(A)", "eV", {"w1": 5173.03701, "w2": 5185.04797, "e1": 1.4849, "e2": 2.7166,
                             "u1": 3.8816, "u2": 5.1078}),
        ("WL_vac(nm)", "cm^-1", {"w1": 517.303701, "w2": 518.504797, "e1": 11976.239,
                                 "e2": 21911.178, "u1": 31307.245, "u2": 41197.403}),
    ])
    def test_the_long_format_in_any_units_is_the_same(
        self, tmp_path: Path, wave: str, energy: str, values: dict[str, float]
    ) -> None:
        text = (LONG_HEAD.format(wave=wave, energy=f"E_low({energy})", upper=f"E_up({energy})")
                + LONG.format(**values) + tail())
        lines = read_lines(written(tmp_path, text))
        assert lines.medium == "vacuum"
        assert lines.species.tolist() == ["Fe 1", "Mg 1"]
        np.testing.assert_allclose(lines.wavelength, [5173.03701, 5185.04797], rtol=1e-12)
        np.testing.assert_allclose(lines.excitation, [1.4849, 2.7166], atol=1e-4)
        assert lines.log_gf.tolist() == [-1.793, -0.239]
        assert lines.gamma_vdw.tolist() == [-7.687, -7.231]
        np.testing.assert_allclose(lines.in_air().wavelength, [5171.5964, 5183.6042], atol=2e-3)

    def test_isotopes_count_where_vald_has_not_scaled_by_them(self, tmp_path: Path) -> None:
        lines = read_vald(written(tmp_path, short(scaled=False)))
        np.testing.assert_allclose(10.0**lines.log_fraction, [1.0, 1.0, 0.7372])

    def test_it_survives_our_own_file(self, tmp_path: Path) -> None:
        lines = read_lines(written(tmp_path, short("WL_vac(A)")))
        lines.write(tmp_path / "kept.h5")
        kept = read_lines(tmp_path / "kept.h5")
        assert kept.medium == "vacuum"
        for name in LineList._columns():
            theirs, ours = getattr(kept, name), getattr(lines, name)
            if theirs.dtype.kind == "f":
                np.testing.assert_allclose(theirs, ours, rtol=1e-6)
            else:
                assert theirs.tolist() == ours.tolist()

    @pytest.mark.parametrize("text", [
        short()[:700],                                    # cut short
        short("WL_air(cm^-1)"),                           # wavenumbers
        short().replace(" 7.050", " 7.O50"),              # not a number
        short().replace("5160.00000, 5190.00000, 3", "5160.00000, 5190.00000, 5"),
    ])
    def test_a_broken_file_is_one_sentence(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match=r"some.list' is not as VALD writes it"):
            read_lines(written(tmp_path, text))

    def test_a_recipe_takes_a_list_of_vald(self, tmp_path: Path, small: dict[str, Any]) -> None:
        from emulators.synthesis.recipe import GridRecipe
        from emulators.synthesis.synthesize import lines_of

        written(tmp_path, short())
        small["lines"] = {"list": "some.list", "select": 0.0, "reach": 15.0}
        lines = lines_of(GridRecipe.from_dict(small, beside=tmp_path))
        assert lines.species.tolist() == ["Fe 1", "Mg 1", "TiO 1"]


def test_vald_without_pysme_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysme.linelist.vald", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stellarfit\[synthesis\]'"):
        read_lines(written(tmp_path, short()))


def test_the_list_that_ships_is_read_as_ever() -> None:
    path = shipped_folder("linelists") / "optical.h5"
    assert len(read_lines(path)) == len(LineList.read(path))


def test_anything_else_is_told_of_the_three_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"our HDF5, a list of Turbospectrum.*one of VALD"):
        read_lines(written(tmp_path, "wavelength species excitation\n5000.0 26.0 1.5\n"))
    with pytest.raises(FileNotFoundError, match="no line list at"):
        read_lines(tmp_path / "absent.lin")
