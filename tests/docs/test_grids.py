"""The tutorial from a recipe to a fit does what it says, with fewer spectra and steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pysme", reason="needs the extra [synthesis]")

PAGE = Path(__file__).parents[2] / "docs" / "grids.md"
FEWER = {"number = 200": "number = 20", "steps=1000": "steps=3", "validate_every=250":
         "validate_every=3", "5160.0, 5190.0": "5165.0, 5175.0", "--workers 2": ""}


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial = PAGE.read_text().split("## What a recipe says")[0]
    for pattern, fewer in FEWER.items():
        assert pattern in tutorial
        tutorial = tutorial.replace(pattern, fewer)
    known: dict[str, object] = {}
    for language, text in re.findall(r"```(\w*)\n(.*?)```", tutorial, flags=re.DOTALL):
        if language == "toml":
            Path("mine.toml").write_text(text)
        elif language == "python":
            exec(text, known)
        else:
            words = shlex.split(text.replace("\\\n", " "))
            answer = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True,
                                    check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert answer.returncode == 0, answer.stderr
    assert set(known["result"].errors) >= {"teff", "logg", "fe_h", "mg_fe"}  # type: ignore
