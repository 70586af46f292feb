"""Stars that are sampled side by side: what their samplers ask for is computed in one batch.

A sampler asks for the density at some tens of points, decides, and asks again.  Each star's runs
in a thread of its own that only decides; when all have asked, the thread that began them
evaluates the emulator once for all.  Samples are those of stars that are sampled apart, but for
rounding, which depends on the company.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Result = TypeVar("Result")
#: of points (n, n_free) and the star that each is of (n,): their ln(likelihood) (n,)
Likelihood = Callable[[Array, NDArray[np.int64]], Array]


class _Table:
    """Where stars ask and are answered."""

    def __init__(self, count: int) -> None:
        self.condition = threading.Condition()
        self.running = count
        self.asked: dict[int, Array] = {}
        self.answers: dict[int, Array] = {}
        self.error: BaseException | None = None

    def ask(self, theta: Array, star: int) -> Array:
        """Wait for the likelihood of points of a star."""
        with self.condition:
            self.asked[star] = theta
            self.condition.notify_all()
            self.condition.wait_for(lambda: star in self.answers or self.error is not None)
            if self.error is not None:
                raise RuntimeError("another star has failed") from self.error
            return self.answers.pop(star)

    def leave(self, error: BaseException | None = None) -> None:
        """Ask no more; with an error, nobody shall."""
        with self.condition:
            self.running -= 1
            self.error = self.error or error
            self.condition.notify_all()

    def serve(self, likelihood: Likelihood) -> None:
        """Answer until all have left."""
        while True:
            with self.condition:
                self.condition.wait_for(
                    lambda: len(self.asked) == self.running or self.error is not None)
                if self.error is not None:
                    raise self.error
                if not self.running:
                    return
                asked, self.asked = self.asked, {}
            stars = sorted(asked)
            sizes = [len(asked[s]) for s in stars]
            values = likelihood(np.concatenate([asked[s] for s in stars]),
                                np.repeat(np.array(stars), sizes))
            parts = np.split(values, np.cumsum(sizes)[:-1])
            with self.condition:
                self.answers.update(zip(stars, parts, strict=True))
                self.condition.notify_all()


def side_by_side(
    stars: Sequence[Callable[[Callable[[Array], Array]], Result]], likelihood: Likelihood
) -> list[Result]:
    """Run samplers of stars side by side.

    Parameters
    ----------
    stars : sequence of callable
        Each is given what evaluates its ln(likelihood) at points (n, n_free).
    likelihood : callable
        Of points of all stars.

    Returns
    -------
    list
        What the stars return.

    Raises
    ------
    Exception
        The first that a star or the evaluation raises; the other stars stop at once.
    """
    table = _Table(len(stars))

    def run(star: int) -> Result:
        try:
            result = stars[star](lambda theta: table.ask(theta, star))
        except BaseException as error:
            table.leave(error)
            raise
        table.leave()
        return result

    with ThreadPoolExecutor(max(1, len(stars))) as pool:
        try:
            running = [pool.submit(run, k) for k in range(len(stars))]
            table.serve(likelihood)
        except BaseException as error:
            table.leave(error)  # so that no thread waits for an answer
            raise
        return [r.result() for r in running]
