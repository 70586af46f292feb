"""How long fresh processes take to begin: ``python -m benchmarks.start_up``.

``stellarfit --help``, ``import stellarfit``, the import of what fits, which brings torch, and the
first fit of the example star, each in a process of its own, in turn with the floors: Python alone,
numpy and torch.  The first round, which reads files that no cache holds, is not counted.  The
modules of the fit's process that take longest to import are told, by ``python -X importtime``.
Writes ``benchmarks/results/start-up.json``; ``--quick`` writes nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.forward_speed import quartiles

RESULT = Path(__file__).parent / "results" / "start-up.json"
SPECTRUM = Path(__file__).parents[1] / "data" / "spectra" / "example.fits"
FIT = f"import stellarfit; stellarfit.fit({str(SPECTRUM)!r}, resolution=30_000)"
CASES = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import torch": ["-c", "import torch"],
    "stellarfit --help": ["-m", "stellarfit", "--help"],
    "import stellarfit": ["-c", "import stellarfit"],
    "from stellarfit import fit": ["-c", "from stellarfit import fit"],
    "first fit": ["-c", FIT],
}
#: seconds that a user should not have to wait beyond
TARGETS = {"stellarfit --help": 0.3, "import stellarfit": 1.5, "from stellarfit import fit": 1.5,
           "first fit": 5.0}


def seconds(arguments: list[str]) -> float:
    """Return the wall time of a Python process."""
    clock = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - clock


def slowest_imports(arguments: list[str], count: int = 12) -> dict[str, float]:
    """Return the seconds of the outermost imports, with all that they bring, longest first."""
    said = subprocess.run([sys.executable, "-X", "importtime", *arguments], check=True,
                          capture_output=True, text=True).stderr
    found: dict[str, float] = {}
    for spent, indent, name in re.findall(r"import time:\s+\d+ \|\s+(\d+) \|( +)(\S+)", said):
        if len(indent) <= 3:  # of the package itself, or what it imports
            found[name] = int(spent) / 1e6
    return dict(sorted(found.items(), key=lambda x: -x[1])[:count])


@click.command(help=__doc__)
@click.option("--repeat", default=15, show_default=True)
@click.option("--quick", is_flag=True, help="Two rounds, to try it.")
def main(repeat: int, quick: bool) -> None:
    """Start every process in turn, again and again."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(1 + (2 if quick else repeat)):
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    report: dict[str, Any] = {"cases": {
        name: {"seconds": quartiles(t[1:]), "target": TARGETS.get(name)}
        for name, t in times.items()}, "imports": slowest_imports(CASES["first fit"])}
    torch = report["cases"]["import torch"]["seconds"]["median"]
    for name, case in report["cases"].items():
        case["times_import_torch"] = round(case["seconds"]["median"] / torch, 2)
        spread = "{median:6.2f} s ({low:.2f}-{high:.2f})".format(**case["seconds"])
        wanted = f"target {case['target']}" if case["target"] else ""
        print(f"{name:28s}{spread}  {case['times_import_torch']:5.2f} x torch  {wanted}")
    print("imports of the first fit:", ", ".join(
        f"{name} {spent:.2f} s" for name, spent in report["imports"].items()))
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
