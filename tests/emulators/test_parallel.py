"""Several processes, one emulator: started by torchrun, they train what one would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from emulators import Emulator, load
from emulators.config import Config

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and Path("/proc/self/environ").exists()),
    reason="needs torch.distributed, and /proc to look for orphans",
)
SETTINGS = """
batch = 8
pixels = 32
warmup = 3
steps = 20
validate_every = 10
checkpoint_every = 5
"""
OPTIONS = "options = { dim = 16, layers = 2, heads = 2, n_period = 16, head = 32 }"
Launch = Callable[..., subprocess.CompletedProcess[str]]


def marked(mark: str) -> list[int]:
    """Return the processes, other than zombies, that have a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start two processes with torchrun, wait for them, and see that none is left."""
    mark = f"TEST_PARALLEL_{uuid.uuid4().hex}"

    def start(*words: object, limit: float = 90.0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TEST_PARALLEL": mark}
        answer = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
             "2", *map(str, words)],
            capture_output=True, text=True, check=False, timeout=limit, env=environment,
        )
        end = time.monotonic() + 10.0
        while marked(mark) and time.monotonic() < end:
            time.sleep(0.1)
        assert marked(mark) == []
        return answer

    yield start
    for process in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def config(write_grid: Callable[..., Path]) -> Callable[[str], Path]:
    """Write a file of runs on the small grid."""
    grid = write_grid("small.h5")

    def write(runs: str) -> Path:
        path = grid.parent / "runs.toml"
        path.write_text(
            f'[grids]\nsmall = "small.h5"\n[defaults]\ngrid = "small"\n{SETTINGS}{runs}')
        return path
    return write


def distance(one: Emulator, other: Emulator) -> float:
    """Return the largest difference between their weights."""
    a, b = one.network.state_dict(), other.network.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def test_two_processes_train_what_one_would(
    launch: Launch, config: Callable[[str], Path], tmp_path: Path
) -> None:
    path = config(f"""
[train.adamw]
optimiser = "adamw"
accumulate = 2
{OPTIONS}
[train.adapted]
init = "adamw"
optimiser = "adamw"
mode = "lora"
lora = {{ rank = 2, unfreeze = ["head.*"] }}
ema = 0.8
[train.payne]
network = "mlp"
optimiser = "adamw"
options = {{ hidden = 16 }}
[train.muon]
{OPTIONS}
[train.cannon]
network = "cannon"
""")
    answer = launch("-m", "emulators", "train", path, "-o", tmp_path / "two")
    assert answer.returncode == 0, answer.stderr
    alone = Config.read(path).train(tmp_path / "one", progress=False)
    # Sums of the same gradients in another order: rounding of float32, 20 steps of it.
    # Muon rounds to bfloat16 on the way, and directions without gradient are all rounding.
    tolerance = {"adamw": 1e-5, "adapted": 1e-5, "payne": 1e-5, "muon": 0.01, "cannon": 0.0}
    for name, emulator in alone.items():
        together = load(tmp_path / "two" / name / "best")
        assert distance(together, emulator) <= tolerance[name], name
        rel = 1e-2 if name == "muon" else 1e-4
        assert together.metrics["mae"] == pytest.approx(emulator.metrics["mae"], rel=rel)
        assert f"{together!r} in {tmp_path / 'two' / name / 'best'}" in answer.stdout
    assert answer.stdout.count(" in ") == len(alone)  # only the first process speaks
    adapter = load(tmp_path / "two" / "adapted" / "adapter", base=tmp_path / "two/adamw/best")
    assert distance(adapter, load(tmp_path / "two" / "adapted" / "best")) == 0.0
    for name in ("adamw", "muon"):
        state = json.loads((tmp_path / "two" / name / "last.json").read_text())
        assert state["step"] == 20


CHAINED = """
import os
import pathlib
import sys

import emulators

grid, out = sys.argv[1:]
how = {"steps": 4, "batch": 4, "pixels": 20, "progress": False}
small = {"dim": 8, "heads": 2, "layers": 1}
base = emulators.train(grid, out=f"{out}/base", options=small, **how)
tuned = emulators.train(grid, out=f"{out}/tuned", init=base, mode="lora", **how)
said = pathlib.Path(out) / ("rank-" + os.environ["RANK"])
said.write_text(base.sha256 + " " + tuned.provenance["init"]["sha256"])
"""


def test_what_one_training_returns_the_next_can_start_from(
    launch: Launch, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "chained.py"
    script.write_text(CHAINED)
    answer = launch(script, write_grid("small.h5"), tmp_path)
    assert answer.returncode == 0, answer.stderr
    sha = load(tmp_path / "base" / "best").sha256
    for rank in (0, 1):
        assert (tmp_path / f"rank-{rank}").read_text().split() == [sha] * 2


DEADLY = """
import os, signal
import torch
from emulators.cli import main

take, calls = torch.optim.AdamW.step, []

def step(self, *words, **names):
    calls.append(0)
    if os.environ["RANK"] == os.environ["DEADLY_RANK"] and len(calls) == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, *words, **names)

torch.optim.AdamW.step = step
main()
"""
RUN = """
init = "base"
mode = "lora"
lora = { rank = 2, dropout = 0.3, unfreeze = ["head.*"] }
ema = 0.8
accumulate = 2
precision = "bf16"
"""


def test_a_process_that_dies_takes_the_others_along_and_the_run_goes_on_where_it_was(
    launch: Launch, config: Callable[[str], Path], tmp_path: Path,
    same: Callable[[Emulator, Emulator], bool], monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = config(f"[train.base]\n{OPTIONS}\n[train.first]\n{RUN}\n[train.second]\n{RUN}\n"
                  f"[train.straight]\n{RUN}")
    out = tmp_path / "out"
    Config.read(path).train(out, only=["base"], progress=False)
    (tmp_path / "deadly.py").write_text(DEADLY)
    for rank, name in enumerate(("first", "second")):
        monkeypatch.setenv("DEADLY_RANK", str(rank))
        began = time.monotonic()
        answer = launch(tmp_path / "deadly.py", "train", path, "-o", out, "--only", name,
                        limit=60.0)
        assert answer.returncode != 0
        assert time.monotonic() - began < 60.0
        assert json.loads((out / name / "last.json").read_text())["step"] == 10
    answer = launch("-m", "emulators", "train", path, "-o", out, "--resume")
    assert answer.returncode == 0, answer.stderr
    straight = load(out / "straight" / "best")
    assert not same(straight, load(out / "base" / "best"))
    for name in ("first", "second"):
        assert same(load(out / name / "best"), straight)
        assert load(out / name / "best").metrics == straight.metrics


def test_a_batch_that_two_processes_cannot_share_is_one_line(
    launch: Launch, config: Callable[[str], Path], tmp_path: Path
) -> None:
    path = config(f"[train.odd]\n{OPTIONS}\n".replace("[train.odd]", "[train.odd]\nbatch = 9"))
    answer = launch("-m", "emulators", "train", path, "-o", tmp_path / "out")
    assert answer.returncode != 0
    assert ("Error: a batch of 9 spectra cannot be shared by 2 processes in 1 parts each: make "
            "batch a multiple of 2") in answer.stderr
    assert not (tmp_path / "out" / "odd" / "last.json").exists()
