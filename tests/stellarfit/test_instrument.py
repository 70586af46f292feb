"""Instruments: presets with their sources, tables of resolution, what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stellarfit.instrument import PRESETS, Instrument, from_file, instrument_for, tabulated

NAMES = ("harps", "uves", "feros", "espresso", "gaia-eso-uves580", "gaia-eso-hr10",
         "hectochelle-rv31", "lamost-lrs", "lamost-mrs", "sdss", "boss", "desi", "weave-hr",
         "galah", "apogee")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_names_the_paper_it_is_from(name: str) -> None:
    preset = instrument_for(name)
    assert re.search(r"(19|20)\d\d, ", preset.reference)
    assert (preset.resolution_at(np.array([3000.0, 6000.0, 17_000.0])) > 1_000).all()
    assert set(PRESETS) == set(NAMES)


def test_a_table_is_interpolated_and_scaled_as_a_whole() -> None:
    instrument = tabulated("mine", [(5000, 1000), (6000, 2000), (7000, 4000)])
    assert instrument.resolution == 2000
    at = instrument.resolution_at(np.array([4000.0, 5500.0, 6500.0, 9000.0]))
    assert at.tolist() == [1000.0, 1500.0, 3000.0, 4000.0]
    double = instrument.scaled_to(4000.0)
    assert double.resolution_at(np.array([5500.0])).tolist() == [3000.0]


def test_a_file_of_two_columns_is_an_instrument(tmp_path) -> None:
    path = tmp_path / "my-spectrograph.txt"
    path.write_text("# wavelength R\n5000 20000\n6000 25000\n")
    assert instrument_for(str(path)) == from_file(path)
    assert from_file(path).resolution_at(np.array([5500.0])).tolist() == [22_500.0]
    path.write_text("5000 20000 3\n")
    with pytest.raises(ValueError, match="3 columns; expected wavelength"):
        from_file(path)
    path.write_text("wavelength and so on\n")
    with pytest.raises(ValueError, match="no table of resolution"):
        from_file(path)
    with pytest.raises(FileNotFoundError, match="no table of resolution"):
        from_file(tmp_path / "absent.txt")


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Instrument("x", 3.0), "R = 3 is no resolution"),
    (lambda: tabulated("x", [(5000, 2000), (6000, 5)]), "R = 5 is no resolution"),
    (lambda: tabulated("x", [(6000, 2000), (5000, 2000)]), "must increase"),
    (lambda: Instrument("x", 2000.0, h3=0.9), "h3 = 0.9, .*between -0.3 and 0.3"),
    (lambda: instrument_for("harp"), r"unknown instrument 'harp' \(did you mean harps\?\)"),
    (lambda: instrument_for(), "say either instrument= or resolution="),
    (lambda: instrument_for("harps", 2e4), "got both instrument= and resolution="),
        (lambda: instrument_for(None, "abc"), "resolution is 'abc'; expected a number"),
        (lambda: tabulated("x", [(float("nan"), 2000), (5000, 2000)]), "must increase"),
        (lambda: Instrument("x", 2000.0, h3=float("nan")), "h3 = nan"),
        (lambda: Instrument("x", 2000.0, h3=0.3, h4=-0.3), "nowhere negative"),
])
def test_what_is_no_instrument_is_refused(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
