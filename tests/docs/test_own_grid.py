"""The page on grids of spectra from elsewhere does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulators.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own-grid.md"


def test_the_page_on_own_grids_does_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    ran, shown = [], ""
    for language, text in blocks:
        if language == "python":
            exec(text, {})
        for line in text.strip().splitlines() if not language else ():
            words = shlex.split(line.replace("--steps 2000", "--steps 2"))
            assert words.pop(0) == "emulators"
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 0, result.output
            ran.append(words[1 if words[0] == "grid" else 0])
            shown = shown or result.output
    assert ran == ["convert", "info", "check", "plot", "train"]
    assert shown.strip() == next(t for n, t in blocks if n == "text").strip()
    assert (tmp_path / "mine.png").is_file()
    assert (tmp_path / "runs" / "mine" / "best" / "emulator.json").is_file()
