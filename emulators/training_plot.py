"""A picture of trainings: how loss and validation error fell, step by step.  Needs matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.metrics import DESCRIPTIONS
from emulators.picture import CURVES, finish, new_figure

#: of a run's log: what is drawn, and what it is called
PANELS = {"loss": "loss in training", "mse": "MSE in validation", "mae": "MAE in validation",
          "rate": "learning rate"}


def plot_training(
    runs: str | Path | Sequence[str | Path], path: str | Path | None = None
) -> Any:
    """Draw the loss, the validation errors and the learning rate of one or several trainings.

    Parameters
    ----------
    runs : path, or sequence of paths
        Folders of runs (`out` of :func:`emulators.train`), or their ``log.csv``.
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return the
        matplotlib figure.

    Raises
    ------
    FileNotFoundError
        For a run without a log.
    ValueError
        For a file that is no log.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> plot_training(["runs/base", "runs/lora"], "training.png")         # doctest: +SKIP
    """
    given = [runs] if isinstance(runs, (str, Path)) else list(runs)
    logs = {str(run): read_log(run) for run in given}
    if not logs:
        raise ValueError("no run to draw: give the folder of one, as emulators.train writes it")
    figure = new_figure(9, 7)
    panels = figure.subplots(2, 2, sharex=True).T.flat
    last = max(log["step"].max() for log in logs.values())
    names = _shortest([_folder(Path(run)) for run in logs])
    for axes, (column, text) in zip(panels, PANELS.items(), strict=True):
        for i, (name, log) in enumerate(zip(names, logs.values(), strict=True)):
            _draw(axes, log, column, name, i, last)
        axes.set_title(text, loc="left", fontsize=10)
        axes.grid(color="0.9", lw=0.6)
        if column != "rate":
            axes.set_yscale("log")
            axes.margins(y=0.12)
        axes.tick_params(which="both", labelsize=9)
    for axes in figure.axes:
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("step")
    if len(logs) > 1:
        figure.axes[0].legend(fontsize=9, frameon=False, handlelength=3.0)
    figure.suptitle(names[0] if len(logs) == 1 else "", x=0.01, ha="left", fontsize=11)
    return finish(figure, path)


def read_log(run: str | Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a run's ``log.csv``, (n_validation,) each.

    Parameters
    ----------
    run : path
        The folder of the run, or the file itself.

    Raises
    ------
    FileNotFoundError
    ValueError
        When it is no log of a run.
    """
    path = Path(run) / "log.csv" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise FileNotFoundError(f"no log at '{path}': expected the folder of a run, or its log.csv")
    try:
        with open(path, newline="") as stream:
            rows = list(csv.DictReader(stream))
        columns = {n: np.array([float(r[n]) for r in rows]) for n in (rows or [{}])[0]}
        if not {"step", "loss"} <= columns.keys():
            raise ValueError(f"it has the columns {', '.join(columns) or 'of nothing'}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"'{path}' is no log of a run: {error}; expected step, loss, ..., as "
                         "emulators.train writes them") from error
    return columns


def _draw(
    axes: Any, log: dict[str, NDArray[np.float64]], column: str, name: str, number: int,
    last: float,
) -> None:
    """Draw a column of one run; the state that is kept, that of lowest MSE, is marked."""
    if column not in log:
        return
    colour, style = CURVES[number % len(CURVES)]
    few = {"marker": ".", "ms": 5} if len(log["step"]) < 40 else {}
    axes.plot(log["step"], log[column], color=colour, ls=style, lw=1.4, label=name, **few)
    if column in DESCRIPTIONS and "mse" in log:
        best = int(np.nanargmin(log["mse"]))
        axes.plot(log["step"][best], log[column][best], "o", mfc="none", mec=colour, ms=9)
        early = log["step"][best] < 0.5 * last  # there is room to its right
        axes.annotate(f"{log[column][best]:.3g}", (log["step"][best], log[column][best]),
                      xytext=(8 if early else -8, 5), textcoords="offset points",
                      ha="left" if early else "right", va="bottom", fontsize=9, color=colour)


def _folder(path: Path) -> Path:
    """Return the path of a run, given its folder or its log."""
    return path.parent if path.name == "log.csv" else path


def _shortest(paths: list[Path]) -> list[str]:
    """Return as much of the ends of paths as tells them apart."""
    for length in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-length:]) for p in paths]
        if len(set(names)) == len(names):
            break
    return names
