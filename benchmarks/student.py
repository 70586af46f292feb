"""What a student of the shipped emulator costs in accuracy, and gains in speed.

``python -m benchmarks.student OUT``: ``mgb-fgk`` teaches a network for a survey of R = 20,000 in
the folder OUT (some hours on two cores; what is there is gone on with), then both make the same
spectra in turn.  Writes ``benchmarks/results/student.json``: what the student adds to its teacher's
error, on lessons it was not given, and spectra per second of both.  ``--ship`` writes the student
to ``data/emulators``, its log to ``benchmarks/results`` and its card to ``docs/cards``.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import click
import numpy as np
import torch

import emulators
from benchmarks.train_shipped import CARDS, RESULTS, SHIPPED, in_words
from emulators.drawing import uniform

#: what the card says beyond numbers
LIMITS = [
    "The student of `mgb-fgk`, and all this against its teacher, on label vectors drawn evenly "
    "from all of the domain: the teacher's own errors (its card) come on top. Fits use those of "
    "both together, against the synthesis.",
    "Spectra of R = 30,000: for instruments of R = 20,000 and less.",
    "The validation spectra also chose the best state of the training.",
]
#: spectra of a batch, and times that each emulator makes one
BATCH, TIMES = 64, 5


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--spectra", default=100_000, show_default=True)
@click.option("--steps", default=16_000, show_default=True)
@click.option("--ship", is_flag=True)
def main(out: Path, spectra: int, steps: int, ship: bool) -> None:
    """Teach, then race."""
    teacher = emulators.load("mgb-fgk")
    student = emulators.distill(teacher, out=out, instrument=20_000, spectra=spectra, steps=steps,
                                name="mgb-fgk-r20k", resume=True)
    labels = torch.as_tensor(uniform(teacher.domain, teacher.labels, BATCH,
                                     np.random.default_rng(0)))
    times: dict[str, list[float]] = {"teacher": [], "student": []}
    with torch.no_grad():
        for _ in range(TIMES + 1):
            for name, emulator in (("teacher", teacher), ("student", student)):
                pixels = torch.as_tensor(emulator.pixels)
                repeat = 1 if name == "teacher" else 50
                clock = time.perf_counter()
                for _ in range(repeat):
                    emulator.flux(labels, pixels)
                times[name].append((time.perf_counter() - clock) / repeat)
    rate = {n: BATCH / float(np.median(t[1:])) for n, t in times.items()}  # the first warms up
    found = {"teacher": teacher.identity, "student": student.identity, "spectra": spectra,
             "steps": steps, "added": student.metrics, "spectra_per_second": rate,
             "times_as_fast": rate["student"] / rate["teacher"],
             "threads": torch.get_num_threads(),
             "bytes": sum(p.stat().st_size for p in (out / "best").iterdir())}
    (RESULTS / "student.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if ship:
        with emulators.Grid(out / "lessons.h5") as lessons:
            student.card = emulators.card(student, lessons) | {"limits": LIMITS}
        student.save(SHIPPED / student.name)
        (CARDS / f"{student.name}.md").write_text(in_words(student, "benchmarks.student --ship"))
        shutil.copy(out / "log.csv", RESULTS / "training-student.csv")


if __name__ == "__main__":
    main()
