"""Workers may die; stars must not be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulators import workers as workers_module
from emulators.apart import Apart
from emulators.files import shipped_folder
from emulators.synthesis.atmosphere import C3K, Atmosphere
from emulators.synthesis.engine import Synthesis
from emulators.synthesis.lines import LineList
from emulators.synthesis.making import Maker
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.selection import select
from emulators.workers import Workers

pytest.importorskip("distributed", reason="needs the extra [synthesis]")
cloudpickle = pytest.importorskip("cloudpickle")


class Deadly:
    """A synthesis code that takes its process with it for one star."""

    identity = "deadly"

    def __init__(self, teff: float) -> None:
        self.teff = teff

    def __call__(
        self, atmosphere: Atmosphere, abundances: NDArray[np.float64], vmic: float,
        wavelength: NDArray[np.float64],
    ) -> Synthesis:
        if atmosphere.teff == self.teff:
            os.kill(os.getpid(), signal.SIGKILL)
        flux = np.full(len(wavelength), atmosphere.teff / 1e4)
        return Synthesis(flux, np.ones(len(wavelength)))


@pytest.fixture
def by_value() -> Iterator[None]:
    """Send this module's classes to workers, which cannot import it."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.filterwarnings("ignore")  # dask's own, of the worker that went
@pytest.mark.usefixtures("by_value")
def test_a_star_that_kills_its_worker_is_named_and_the_others_are_made(
    small: dict[str, Any]
) -> None:
    recipe = GridRecipe.from_dict(small)
    teff = recipe.samples(np.arange(6))["teff"]
    maker = Maker(recipe, Deadly(float(teff[4])), C3K())
    with Workers(maker, 2) as pool:
        made = list(pool.make([np.arange(3), np.arange(3, 6)]))
    assert sorted(np.concatenate([m.index for m in made]).tolist()) == [0, 1, 2, 3, 5]
    failed = [m for m in made if len(m.failed_index)]
    assert [m.failed_index.tolist() for m in failed] == [[4]]
    assert failed[0].failed_labels[0, 0] == teff[4]
    assert failed[0].failed_reason.tolist() == ["it killed its process"]


def test_a_star_that_kills_the_only_process_is_named_too(small: dict[str, Any]) -> None:
    recipe = GridRecipe.from_dict(small)
    teff = recipe.samples(np.arange(6))["teff"]
    with Workers(Maker(recipe, Deadly(float(teff[1])), C3K()), 1) as pool:
        made = list(pool.make([np.arange(3), np.arange(3, 6)]))
    assert np.concatenate([m.index for m in made]).tolist() == [0, 2, 3, 4, 5]
    failed = [m for m in made if len(m.failed_index)]
    assert [m.failed_index.tolist() for m in failed] == [[1]]
    assert failed[0].failed_reason.tolist() == ["it killed its process"]


def test_a_corner_that_ends_the_selection_of_lines_is_named(small: dict[str, Any]) -> None:
    class Stops:
        def strength(self, *_: object) -> None:
            os._exit(0)  # as Fortran's STOP does

    recipe = GridRecipe.from_dict(small)
    lines = LineList.read(shipped_folder("linelists") / "optical.h5").between(5165.0, 5175.0)
    with Apart(Stops()) as process, pytest.raises(
            RuntimeError, match=r"killed its process at the corner .* teff = \d+"):
        select(lines, recipe, partial(process.call, "strength"), C3K())


def test_every_task_comes_back_however_many_there_are(small: dict[str, Any]) -> None:
    recipe = GridRecipe.from_dict(small)
    with Workers(Maker(recipe, Deadly(0.0), C3K()), 1) as pool:
        made = list(pool.make([np.array([i]) for i in range(9)]))
    assert [m.index.tolist() for m in made] == [[i] for i in range(9)]


FORKSERVER = '''
import multiprocessing
from pathlib import Path
from emulators.apart import Apart
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    with Apart(Path("there")) as process:
        print(process.call("joinpath", "here"))
'''


def test_a_process_made_by_a_fork_server_does_not_think_its_parent_gone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FORKSERVER)
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True,
                          check=True, timeout=60)
    assert said.stdout.strip() == "there/here"


class Slow:
    """Makes a shard of nothing in a moment."""

    def __call__(self, index: NDArray[np.int64]) -> int:
        time.sleep(0.05)
        return int(index[0])

    def lost(self, index: NDArray[np.int64], reason: str) -> int:
        return -1


@pytest.mark.filterwarnings("ignore")  # dask's own
@pytest.mark.usefixtures("by_value")
def test_who_loses_the_scheduler_goes_on_when_it_is_back() -> None:
    """The client's connection breaks once: everything it had asked for is cancelled."""
    with Workers(Slow(), 2) as pool:
        made = []
        for k, shard in enumerate(pool.make([np.array([i]) for i in range(30)])):
            made.append(shard)
            if k == 5:
                pool._client.scheduler_comm.comm.abort()
    assert sorted(made) == list(range(30))


class Killer:
    """Takes its process with it for sample 4."""

    def __call__(self, index: NDArray[np.int64]) -> list[int]:
        if 4 in index:
            os.kill(os.getpid(), signal.SIGKILL)
        return list(index.tolist())

    def lost(self, index: NDArray[np.int64], reason: str) -> list[int]:
        return [-int(i) for i in index]


@pytest.mark.filterwarnings("ignore")  # dask's own
@pytest.mark.usefixtures("by_value")
def test_who_is_alone_when_the_scheduler_goes_is_no_killer(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workers(Killer(), 2) as pool:
        submit, cancelled = pool._client.submit, set()

        def once_cancelled(*arguments: Any, **options: Any) -> Any:
            future = submit(*arguments, **options)
            samples = arguments[-1].tolist() if len(arguments) == 3 else []
            if len(samples) == 1 and samples[0] not in cancelled:
                cancelled.add(samples[0])
                future.cancel()
            return future

        monkeypatch.setattr(pool._client, "submit", once_cancelled)
        made = list(pool.make([np.arange(3, 6)]))
    assert cancelled == {3, 4, 5}
    assert sorted(made) == [[-4], [3], [5]]


def test_dask_is_left_as_it_was_when_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask
    import distributed

    def client(*_: object, **__: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", client)
    before = dask.config.get("distributed.scheduler.allowed-failures")
    with pytest.raises(OSError, match="timed out"), Workers(
            Slow(), 1, "tcp://nowhere:1", patience=before + 1):
        pass
    assert dask.config.get("distributed.scheduler.allowed-failures") == before


def cancelled_submit(client: Any) -> Any:
    """Return a client's submit whose futures are cancelled at once."""
    submit = client.submit

    def cancelled(*arguments: Any, **options: Any) -> Any:
        future = submit(*arguments, **options)
        future.cancel()
        return future

    return cancelled


@pytest.mark.filterwarnings("ignore")  # dask's own
@pytest.mark.usefixtures("by_value")
def test_a_scheduler_that_stays_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "MOST_CANCELLED", 3)
    with Workers(Slow(), 2) as pool:
        made = pool.make([np.array([i]) for i in range(300)])
        next(made)
        monkeypatch.setattr(pool._client, "submit", cancelled_submit(pool._client))
        with pytest.raises(ConnectionError, match="what is done stays"):
            list(made)
