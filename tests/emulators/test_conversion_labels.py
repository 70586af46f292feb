"""Which names of columns and files are labels."""

from __future__ import annotations

import numpy as np
import pytest

from emulators.conversion.labels import from_columns, from_file_names, known_label


@pytest.mark.parametrize(("column", "label"), [
    ("Teff", "teff"), ("T_eff [K]", "teff"), ("log g", "logg"), ("logg (cgs)", "logg"),
    ("[Fe/H]", "fe_h"), ("FeH", "fe_h"), ("fe_h", "fe_h"), ("vmic", "vmic"), ("vturb", "vmic"),
    ("xi", "vmic"), ("[Mg/H]", "mg_h"), ("[Mg/Fe]", "mg_fe"), ("vsini (km/s)", "vsini"),
    ("[alpha/Fe]", "alpha_fe"), ("[M/H]", None), ("id", None), ("mass", None),
])
def test_a_column_is_a_known_label_only_beyond_doubt(column: str, label: str | None) -> None:
    assert known_label(column) == label


@pytest.mark.parametrize(("pattern", "sentence"), [
    ("(", "is not a regular expression"),
    ("t4500", r"names no label: write \(\?P<teff>"),
    (r"(?P<teff>\d+)K", "no file name matches pattern=.*; the first of 1 is 't4500.txt'"),
    (r"(?P<teff>t\d+)", "teff is 't4500' by the pattern, expected a number"),
    (r"t(?P<height>\d+)", "cannot tell what 'height' of the columns height are"),
])
def test_a_bad_pattern_gets_one_sentence(pattern: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_file_names(["t4500.txt"], pattern)


@pytest.mark.parametrize(("name", "label"), [
    ("Teff=temp", "teff"), (" fe_h =g", "fe_h"), ("Alpha Mass = g", "alpha_mass"), (" g ", "g"),
])
def test_a_label_that_is_asked_for_has_a_name_of_ours(name: str, label: str) -> None:
    columns = {"temp": np.ones(3), "g": np.zeros(3)}
    assert from_columns(columns, [name]).names == (label,)
