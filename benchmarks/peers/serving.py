"""How a peer, in a process of its own, is asked for spectra and for the time they take.

Run by the peer's interpreter: only numpy and the peer itself can be imported here.  Requests and
answers are lines of JSON on the standard streams.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

#: labels (n_spec, n_label) in [0, 1] float32, log10 of the wavelengths (n_pix,) float64 -> a
#: function without arguments that makes all fluxes and returns when they are there
Prepare = Callable[[Any, Any], Callable[[], Any]]


def serve(prepare: Prepare, versions: dict[str, str]) -> None:
    """Answer requests until there are no more.

    ``{"work": IN, "flux": OUT}`` prepares the work in an ``.npz`` with ``labels`` and
    ``log_wavelength``, answers the seconds of the first call and leaves its fluxes in an
    ``.npy``; ``{}`` answers the seconds of one more call.  With them comes the largest memory,
    in bytes, that the process has held.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    call: Callable[[], Any] = list
    for line in sys.stdin:
        request = json.loads(line)
        if "work" in request:
            work = np.load(request["work"])
            call = prepare(work["labels"], work["log_wavelength"])
        clock = time.perf_counter()
        flux = call()
        seconds = time.perf_counter() - clock
        if "work" in request:
            np.save(request["flux"], np.asarray(flux))
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)
