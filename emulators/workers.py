"""Where shards of a long work are made: one process beside this, several of this machine, or a
dask cluster.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from emulators.apart import ENDED, Apart, EndedError

#: shards given to each thread of the workers ahead of time
AHEAD = 2
#: times in a row that a task may come back cancelled, and seconds to wait after each
MOST_CANCELLED, PAUSE = 60, 0.5
#: of dask's workers here, which work in arrays of megabytes: dask has them give back all that they
#: free, and they would spend much of their time asking for it again
MEMORY = {f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_": str(size)
          for name, size in (("TRIM_THRESHOLD", 2**30), ("MMAP_THRESHOLD", 2**25))}
MEMORY["distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX"] = "1"


class Maker(Protocol):
    """What makes shards; it is sent to each worker once."""

    def __call__(self, index: NDArray[np.int64]) -> Any:
        """Return the shard of some samples."""

    def lost(self, index: NDArray[np.int64], reason: str) -> Any:
        """Return the shard of samples that ended every process that was to make them."""


class Workers:
    """Makes shards in any order; a context manager.

    Parameters
    ----------
    maker : Maker
    workers : int
        Processes to start; 1 needs no dask.
    scheduler : str, optional
        Address of a dask scheduler that has workers already.
    patience : int
        How often samples may lose their worker before they are taken to be at fault.
    extra : str
        Of stellarfit's, that brings dask.

    Raises
    ------
    ModuleNotFoundError
        When dask is needed and not installed.
    OSError
        When no scheduler answers there.
    """

    def __init__(
        self, maker: Maker, workers: int, scheduler: str | None = None, *, patience: int = 1,
        extra: str = "synthesis",
    ) -> None:
        self.maker, self.workers, self.scheduler = maker, workers, scheduler
        self._patience, self._extra = patience, extra
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Workers:
        if self.workers == 1 and self.scheduler is None:
            return self
        try:
            import dask
            from distributed import Client, LocalCluster
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"dask is not installed: pip install 'stellarfit[{self._extra}]'") from error
        with ExitStack() as stack:
            stack.enter_context(dask.config.set({
                "distributed.scheduler.allowed-failures": self._patience,
                "distributed.worker.memory.terminate": False,
                **MEMORY,
            }))
            address: Any = self.scheduler
            if address is None:
                address = stack.enter_context(LocalCluster(
                    n_workers=self.workers, threads_per_worker=1, processes=True,
                    dashboard_address=None, silence_logs="ERROR"))
            self._client = stack.enter_context(Client(address, timeout="30s"))
            if self.scheduler is not None and not self._client.nthreads():
                tqdm.write(f"waiting for workers of {self.scheduler}", file=sys.stderr)
            self._stack = stack.pop_all()  # all is well: to be closed at the end
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self, tasks: list[NDArray[np.int64]]) -> Iterator[Any]:
        """Yield the shards of groups of samples as they are finished."""
        if self._client is None:
            yield from self._one_by_one(tasks)
            return
        from concurrent.futures import CancelledError

        from distributed import KilledWorker, as_completed

        # The result of a task rather than scattered data, which is lost with its workers.
        maker = self._client.submit(_hold, self.maker, pure=False)
        left, cancelled = deque(tasks), 0
        numbers: dict[str, NDArray[np.int64]] = {}
        suspects: list[int] = []

        def submit(index: NDArray[np.int64]) -> Any:
            future = self._client.submit(_make, maker, index, pure=False)
            numbers[future.key] = index
            return future

        def more() -> Iterator[Any]:
            """Yield what keeps the workers of this moment busy: others may have joined."""
            ahead = AHEAD * max(1, sum(self._client.nthreads().values()))
            while left and len(numbers) < ahead:
                yield submit(left.popleft())

        def wait() -> None:
            """Give the scheduler, or its workers, time to come back; not for ever."""
            nonlocal maker, cancelled
            cancelled += 1
            if cancelled > MOST_CANCELLED:
                raise ConnectionError(
                    "the scheduler went away, or all its workers; what is done stays: begin "
                    "again when they are back") from None
            if maker.cancelled():
                maker = self._client.submit(_hold, self.maker, pure=False)
            time.sleep(PAUSE)

        pending = as_completed(list(more()))
        for future in pending:
            index = numbers.pop(future.key)
            try:
                yield future.result()
                cancelled = 0
            except CancelledError:  # the scheduler has lost its workers, or we the scheduler
                left.appendleft(index)
                wait()
            except KilledWorker:
                suspects += index.tolist()
                cancelled = 0
            pending.update(list(more()))
        # Who was with the culprit when it took the process is blamed as well: each by itself.
        while suspects:
            alone = np.array(suspects[:1])
            try:
                yield submit(alone).result()
                cancelled = 0
            except CancelledError:
                wait()
                continue
            except KilledWorker:
                yield self.maker.lost(alone, ENDED)
                cancelled = 0
            del suspects[0]

    def _one_by_one(self, tasks: list[NDArray[np.int64]]) -> Iterator[Any]:
        """Yield the shards in their order, made in one process."""
        left, tries = deque(tasks), Counter[int]()
        with Apart(self.maker) as process:
            while left:
                index = left.popleft()
                try:
                    yield process.call("__call__", index)
                except EndedError as error:
                    tries[int(index[0])] += 1
                    if tries[int(index[0])] < self._patience:
                        left.appendleft(index)
                    elif len(index) == 1:
                        yield self.maker.lost(index, str(error))
                    else:  # which of them was it?
                        left.extendleft(np.array([one]) for one in reversed(index))


def _hold(maker: Maker) -> Maker:
    return maker


def _make(maker: Maker, index: NDArray[np.int64]) -> Any:
    return maker(index)
