"""Many stars, perhaps on many machines: every input is one row of the catalogue.

- `targets`: what there is to fit, each star of each file once, in order;
- `engine`: stars on common pixels are fitted side by side, and one that fails fails alone;
- `catalogue`: outcomes as rows, and as a table with units, flags and aliases;
- `folder`: a survey on disk: what is asked for, and the shards that are done;
- `running`: shards made by processes of this machine or a dask cluster;
- `models`: results in full.

>>> from stellarfit import survey
>>> survey.run("spectra/", "survey", resolution=20_000)             # doctest: +SKIP
>>> survey.status("survey")                                         # doctest: +SKIP
>>> table = survey.merge("survey", "catalogue.fits")                # doctest: +SKIP
>>> survey.result("survey", 12).plot("star12.png")                  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stellarfit.survey.engine import Status
    from stellarfit.survey.folder import OtherSurveyError
    from stellarfit.survey.models import result
    from stellarfit.survey.running import IncompleteError, Progress, merge, run, status

__all__ = ["IncompleteError", "OtherSurveyError", "Progress", "Status", "merge", "result", "run",
           "status"]

# Loaded at first use, so that the command line can answer --help without torch.
_HOMES = {"IncompleteError": "running", "OtherSurveyError": "folder", "Progress": "running",
          "Status": "engine", "merge": "running", "result": "models", "run": "running",
          "status": "running"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stellarfit.survey' has no attribute {name!r}")
    return getattr(import_module(f"stellarfit.survey.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
