"""What is installed: the package by itself, without the checkout and without extras."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST_WHEEL = 40e6

#: what only extras bring, by the name one imports
EXTRAS = ("matplotlib", "corner", "bokeh", "jinja2", "pysme", "distributed", "dask", "pyro",
          "arviz", "arviz_base", "h5netcdf", "pyarrow", "pandas", "tensorboard", "specutils",
          "selenium", "sphinx", "pytest", "hypothesis")

FIT = """
import sys
from pathlib import Path

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *args):
        absent = name.split(".")[0] in sys.argv[1].split(",")
        return None if absent else self.finder.find_spec(name, *args)

sys.meta_path[:] = map(Without, sys.meta_path)
import emulators.data, stellarfit
example = Path(list(emulators.data.__path__)[0]) / "spectra" / "example.fits"
result = stellarfit.fit(example, resolution=30000, free=["teff", "fe_h", "rv"],
                        fixed={"logg": 4.4, "vmic": 1.2, "vsini": 0.0})
assert result.converged, result
table = result.to_table()
result.save("fit.h5")
print(round(stellarfit.load_result("fit.h5").labels["teff"]))
for needs, call in (
    ("stellarfit[plot]", lambda: result.plot("fit.png")),
    ("stellarfit[report]", lambda: stellarfit.write_report(["fit.h5"], "fit.html")),
):
    try:
        call()
    except ImportError as error:
        assert needs in str(error), error
    else:
        raise AssertionError(f"{needs} was there")
"""


def requirements(extra: str = "") -> set[str]:
    """Return the names of the distributions that the package, or one of its extras, needs."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (config["options.extras_require"][extra] if extra
             else config["options"]["install_requires"])
    return {re.split("[<>=]", line)[0] for line in lines.split()}


def test_a_star_is_fitted_with_what_is_required_alone(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FIT, ",".join(EXTRAS)], cwd=tmp_path, text=True,
                         capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert 5000 < float(run.stdout) < 7000


def test_what_an_extra_brings_is_not_required() -> None:
    extras = {name: requirements(name) for name in ("plot", "report", "bayes", "survey")}
    for name, needs in extras.items():
        assert not needs & requirements(), name


@pytest.mark.slow
def test_wheel_and_sdist_work_from_an_environment_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("build")
    # The wheel is made of the sdist, so that both are whole.
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True)
    (wheel,), (_,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size <= LARGEST_WHEEL
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "docs/"))]
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt",
                    wheel], check=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    run = subprocess.run([python, "-c", FIT, ","], cwd=tmp_path, env=clean, text=True,
                         capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    command = tmp_path / "venv" / "bin" / "stellarfit"
    example = next((tmp_path / "venv").rglob("spectra/example.fits"))
    subprocess.run([command, "fit", example, "--resolution", "30000", "-o", tmp_path / "out"],
                   cwd=tmp_path, env=clean, check=True)
    assert (tmp_path / "out" / "example.ecsv").exists()
    subprocess.run([command.with_name("emulators"), "list"], cwd=tmp_path, env=clean, check=True)
