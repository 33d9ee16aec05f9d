"""What the runs of benchmarks/mode_coverage.py say: medians, paired tests, and what goes with success."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Optional

from scipy import stats
from training_runs import diverged, rows

MODES = "modes_covered"
# What the paper says is the mechanism, by the name of a column of metrics.csv.
MECHANISMS = {
    "condition": "condition/max",
    "generator_gradient": "balance/generator/gradient",
    "learning": "learning/decrease",
}
# Of the row that all methods share.
CENTRAL_SETTING: dict[str, Any] = {"depth": 0, "rate": 2e-4, "loss": "HingeLoss", "linear_relu": True}
EARLY = 1000  # iterations: before most collapses
COLUMNS = {MODES: "metric/modes_covered", "kl_to_uniform": "metric/kl_to_uniform", "sure_share": "metric/sure_share"}

Row = dict[str, Any]


def read_run(folder: Path, iterations: int) -> Optional[Row]:
    """Return what a run measured, or None if it has not finished; one that diverged has."""
    if not (folder / "metrics.csv").exists():
        return None
    found: Row = {"series": {}, "diverged": diverged(folder)}
    measured = rows(folder)
    for name, column in {**COLUMNS, **MECHANISMS}.items():
        points = {int(row["step"]): row[column] for row in measured if column in row}
        # Six digits are more than a picture or a rank needs.
        found["series"][name] = {step: float(f"{value:.6g}") for step, value in sorted(points.items())}
    steps = found["series"][MODES]
    if iterations not in steps and not found["diverged"]:
        return None
    for name in COLUMNS:
        values = list(found["series"][name].values())
        found[name] = values[-1] if values else None
    found[MODES] = int(found[MODES] or 0)
    began = json.loads((folder / "environment.json").read_text())
    return found | {key: began[key] for key in ("commit", "hardware", "threads")}


def setting(row: Mapping[str, Any]) -> Row:
    """Return what a run shares with the same method's others but the seed."""
    return {name: row[name] for name in CENTRAL_SETTING}


def is_central(row: Mapping[str, Any]) -> bool:
    """Return whether a run belongs to the row that all methods share."""
    return setting(row) == CENTRAL_SETTING


def groups(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each cell, the method and its setting, by seed."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault((row["method"], *setting(row).values()), []).append(row)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": median(values), "minimum": min(values), "maximum": max(values)}


def summarize(rows: Iterable[Row]) -> list[Row]:
    """Return one entry a cell: how many seeds, and the spread of modes and divergence over them."""
    return [
        {"method": cell[0]["method"], **setting(cell[0]), "seeds": [row["seed"] for row in cell]}
        | {name: spread([row[name] for row in cell]) for name in (MODES, "kl_to_uniform") if cell[0][name] is not None}
        for cell in groups(rows).values()
    ]


def paired_test(rows: Iterable[Row], better: str, worse: str) -> Optional[dict[str, Any]]:
    r"""Test by Wilcoxon's signed ranks, one-sided, whether a method covers more modes than another on equal seeds.

    Returns:
        Seeds, differences and the exact p-value; None without two pairs.
    """
    modes = {(row["method"], row["seed"]): row[MODES] for row in rows}
    seeds = sorted(seed for method, seed in modes if method == better and (worse, seed) in modes)
    differences = [modes[better, seed] - modes[worse, seed] for seed in seeds]
    if len(seeds) < 2 or not any(differences):
        return None
    p_value = float(stats.wilcoxon(differences, alternative="greater", method="exact").pvalue)
    return {"better": better, "worse": worse, "seeds": seeds, "differences": differences, "p_value": p_value}


def typical(series: Mapping[int, float], until: int) -> Optional[float]:
    """Return the median of a series' measurements after the first iteration and up to one."""
    values = [value for step, value in series.items() if 1 < step <= until]
    return median(values) if values else None


def correlations(rows: Sequence[Row], iterations: int) -> list[dict[str, Any]]:
    """Return Spearman's correlation of each mechanism with the final modes over runs, early in the run and over all."""
    found = []
    for name in MECHANISMS:
        for until in (EARLY, iterations):
            pairs = [(typical(row["series"][name], until), row[MODES]) for row in rows]
            pairs = [(value, modes) for value, modes in pairs if value is not None]
            if len({value for value, _ in pairs}) > 1 and len({modes for _, modes in pairs}) > 1:
                rank = stats.spearmanr(*zip(*pairs, strict=True))
                entry = {"mechanism": name, "until": until, "runs": len(pairs)}
                found.append(entry | {"correlation": float(rank.statistic), "p_value": float(rank.pvalue)})
    return found


def collapses(series: Mapping[int, float]) -> list[tuple[int, bool]]:
    """Return for each measurement of modes but the last its iteration, and whether a collapse follows it.

    A collapse is a fall to less than half of the run's earlier maximum from at least half of it.
    """
    steps = list(series)
    found = []
    for number, (step, following) in enumerate(pairwise(steps)):
        bound = max(series[s] for s in steps[: number + 1]) / 2
        found.append((step, series[step] >= bound > series[following]))
    return found


def foretelling(rows: Iterable[Row]) -> dict[str, Any]:
    """Return whether the condition number is larger before a collapse than at other times in runs of the same method.

    Returns:
        The number of collapses and of other measurements, and the probability that a measurement before a collapse has
        a larger condition number than another one of the same method, ties counting half: 0.5 foretells nothing.
    """
    before: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    for row in rows:
        conditions = row["series"]["condition"]
        for step, falls in collapses(row["series"][MODES]):
            known = [value for at, value in conditions.items() if at <= step]
            if known:
                (before if falls else others).setdefault(row["method"], []).append(known[-1])
    pairs = [(a, b) for method, values in before.items() for a in values for b in others.get(method, ())]
    larger = sum((a > b) + (a == b) / 2 for a, b in pairs)
    return {
        "collapses": sum(map(len, before.values())),
        "others": sum(map(len, others.values())),
        "collapses_by_method": {method: len(values) for method, values in before.items()},
        "probability_larger": larger / len(pairs) if pairs else None,
    }


def at_equal_seconds(row: Row, seconds: Mapping[str, float], iterations: int) -> Optional[int]:
    """Return the modes at the last measurement before as many seconds as sn takes for all its iterations."""
    if row["method"] not in seconds or "sn" not in seconds:
        return None
    affordable = iterations * seconds["sn"] / seconds[row["method"]]
    # Half an iteration, lest sn itself fall short by a rounding.
    reached = [modes for step, modes in row["series"][MODES].items() if step <= affordable + 0.5]
    return int(reached[-1]) if reached else None


def analyze(rows: Sequence[Row], iterations: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return everything that the plan asks of the runs."""
    central = [row for row in rows if is_central(row)]
    methods = dict.fromkeys(row["method"] for row in central)
    tests = [paired_test(central, method, "sn") for method in methods if method != "sn"]
    equal: dict[str, list[int]] = {}
    for row in central:
        if (modes := at_equal_seconds(row, seconds, iterations)) is not None:
            equal.setdefault(row["method"], []).append(modes)
    return {
        "summary": summarize(rows),
        "tests": [test for test in tests if test is not None],
        "equal_seconds": {method: spread(values) for method, values in equal.items()},
        "correlations": correlations(central, iterations),
        "foretelling": foretelling(central),
    }
