"""A process of its own, for code that may end the process it runs in.

SME stops the whole program where its chemistry does not converge, in cold stars of many metals
or little gravity; whoever calls it must not go with it.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from typing import Any

#: what is said of it
ENDED = "it killed its process"


class EndedError(RuntimeError):
    """The process ended in the middle of a call."""


class Apart:
    """Calls methods of an object in a child process; a context manager.

    After an `EndedError` the next call starts another child.
    """

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def call(self, method: str, *arguments: Any) -> Any:
        """Return ``thing.method(*arguments)``, computed there.

        Raises
        ------
        EndedError
            When the call ended its process.  What it raises itself is raised here.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, initializer=_take, initargs=(self._thing,))
        try:
            return self._pool.submit(_call, method, arguments).result()
        except BrokenProcessPool as error:
            self._pool.shutdown()
            self._pool = None
            raise EndedError(ENDED) from error


_thing: Any = None


def _take(thing: Any) -> None:
    """Keep the object; leave an interrupt to the parent, and end when it has ended."""
    global _thing
    _thing = thing
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not by its number: that is the fork server's, where processes are made by one.
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_thing, method)(*arguments)
