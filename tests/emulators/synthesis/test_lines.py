"""The line list that ships, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emulators.files import shipped_folder
from emulators.synthesis.lines import LineList


def test_a_line_list_survives_its_file(tmp_path: Path) -> None:
    lines = LineList.read(shipped_folder("linelists") / "optical.h5").between(5160.0, 5190.0)
    lines.write(tmp_path / "some.h5")
    again = LineList.read(tmp_path / "some.h5")
    for name in lines._columns():
        assert (getattr(again, name) == getattr(lines, name)).all(), name


def test_the_isotopes_of_an_element_add_up_to_its_line() -> None:
    lines = LineList.read(shipped_folder("linelists") / "optical.h5").between(5853.6, 5853.7)
    barium = lines[lines.species == "Ba 2"]
    # Davidson et al. 1992, A&A 255, 457: log gf = -0.907 for all isotopes together.
    total = np.log10(np.sum(10.0 ** (barium.log_gf + barium.log_fraction)))
    assert abs(total + 0.907) < 0.01
