"""What a run folder holds, read for the report."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pcgan_lightning.runs import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    EVALUATIONS,
    METRICS_FILE,
    SAMPLES,
    read_numbers,
    read_record,
)

# Okabe and Ito's colours without yellow, which is too light on white, and Tol's wine: safe for colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#4D4D4D")
DASHES = ("solid", "dashed", "dashdot")

Series = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        name: the folder's name, with as many parents as tell it from the other runs.
        color: its colour in every chart.
        dash: its line style, which differs only where there are more runs than colours.
        series: for each column of ``metrics.csv`` the iterations, ascending, and the values.
        config: the resolved configuration with dotted keys; None without ``config.yaml``.
        environment: the content of ``environment.json``; empty without it.
        evaluations: the content of ``evaluations/*.json``, oldest first.
        grids: iteration -> sample grid, ascending.
    """

    name: str
    color: str
    dash: str
    series: dict[str, Series]
    config: Optional[dict[str, Any]]
    environment: dict[str, Any]
    evaluations: list[dict[str, Any]]
    grids: dict[int, Path]

    @property
    def iterations(self) -> int:
        """The last iteration that anything was logged at."""
        return int(max(iterations[-1] for iterations, _ in self.series.values()))

    def layers(self, pattern: str) -> list[str]:
        """Return the layers of the columns that match `pattern`, whose first group is the layer, in natural order."""
        found = (re.fullmatch(pattern, column) for column in self.series)
        return sorted({match[1] for match in found if match}, key=natural_order)

    def last(self, column: str) -> Optional[float]:
        """Return a column's last value, or None if there is no such column."""
        return float(self.series[column][1][-1]) if column in self.series else None


def natural_order(text: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts ``layer.10`` after ``layer.2``."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text) if part]


def read_runs(folders: list[Path]) -> list[Run]:
    """Read run folders.

    Args:
        folders: the folders, each with a ``metrics.csv``; everything else in them may be missing.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no ``metrics.csv``.
        ValueError: for no folder, the same one twice, or a file that cannot be read.
    """
    if not folders:
        raise ValueError("argument `runs` must name at least one run folder, got none")
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise ValueError(f"argument `runs` must name each run once, got {folder} twice")
        if not path.is_dir():
            raise FileNotFoundError(f"argument `runs` must be run folders, got {folder}, which is no folder")
        if not (path / METRICS_FILE).is_file():
            raise FileNotFoundError(f"argument `runs` must be folders with a metrics.csv, got {folder} without one")
    return [_read_run(path, name, n) for n, (path, name) in enumerate(zip(resolved, _names(resolved), strict=True))]


def _read_run(folder: Path, name: str, number: int) -> Run:
    _check_inside(folder)
    grids = ((re.fullmatch(r"iteration_(\d+)\.png", p.name), p) for p in sorted(folder.glob(f"{SAMPLES}/*.png")))
    evaluations = [_read_mapping(path, "scores") for path in sorted(folder.glob(f"{EVALUATIONS}/*.json"))]
    config = folder / CONFIG_FILE
    environment = folder / ENVIRONMENT_FILE
    return Run(
        name=name,
        color=COLORS[number % len(COLORS)],
        dash=DASHES[number // len(COLORS) % len(DASHES)],
        series=_read_metrics(folder / METRICS_FILE),
        config=dict(_flatten(_read_mapping(config))) if config.exists() else None,
        environment=_read_mapping(environment, "versions") if environment.exists() else {},
        # One that bears no date was made while training, at its iteration.
        evaluations=sorted(evaluations, key=lambda e: (str(e.get("date") or ""), int(e.get("iteration") or 0))),
        grids={int(match[1]): path for match, path in grids if match},
    )


def _check_inside(folder: Path) -> None:
    """Refuse a run folder of which a file that the page shows is a link to something outside of it."""
    patterns = (CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, f"{SAMPLES}/*.png", f"{EVALUATIONS}/*.json")
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        if not path.resolve().is_relative_to(folder):
            raise ValueError(f"argument `runs` must hold files of their own, got {path}, a link to {path.resolve()}")


def _names(folders: list[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell all of them apart."""
    names: list[str] = []
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_metrics(path: Path) -> dict[str, Series]:
    """Return each column's measurements; the rows of one iteration are one row in pieces, and the later piece wins."""
    columns: dict[str, dict[int, float]] = {}
    for row in read_numbers(path, "runs"):
        step = int(row.pop("step"))
        for column, value in row.items():
            columns.setdefault(column, {})[step] = value
    if not columns:
        raise ValueError(f"argument `runs` must hold measurements, got {path} without any")
    ordered = {name: sorted(measured.items()) for name, measured in columns.items()}
    return {name: (np.array([s for s, _ in m]), np.array([v for _, v in m])) for name, m in ordered.items()}


def _read_mapping(path: Path, *inner: str) -> dict[str, Any]:
    """Return a JSON or YAML file's content, whose entries `inner` are mappings too where they are."""
    content = read_record(path, "argument `runs` must hold readable files")
    for key in inner:
        if not isinstance(content.get(key, {}), dict):
            raise ValueError(f"argument `runs` must hold readable files, got {path}, where {key!r} is no mapping")
    return content


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def finite(series: Series, positive: bool = False) -> Series:
    """Return the measurements that can be drawn: finite, and above zero for a logarithmic axis."""
    iterations, values = series
    drawable = np.isfinite(values) & ((values > 0) if positive else True)
    return iterations[drawable], values[drawable]


def not_finite(run: Run) -> dict[str, int]:
    """Return for each column how many of its values are not finite, where there are any."""
    counts = {name: int((~np.isfinite(values)).sum()) for name, (_, values) in run.series.items()}
    return {name: count for name, count in counts.items() if count}
