"""The report's table of results: one row a run, as in Table 1 of PC-GAN."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from pcgan_lightning.report.run_data import Run

UP, DOWN = "↑", "↓"
SCORES = {
    "fid": ("FID", DOWN),
    "inception_score": ("Inception score", UP),
    "kid": ("KID", DOWN),
    "precision": ("precision", UP),
    "recall": ("recall", UP),
    "modes_covered": ("modes covered", UP),
    "kl_to_uniform": ("KL to uniform", DOWN),
    "sure_share": ("share of sure samples", UP),
}
# What may stand after a prefix, as in classifier_fid; the longest first.
SUFFIXES = {"inception_score": SCORES["inception_score"], **SCORES, "score": ("score", UP)}
CONDITIONS = {
    "condition/max": "max\u00a0κ̃",
    "condition/second_max": "second\u00a0max\u00a0κ̃",
    "condition/mean": "mean\u00a0κ̃",
}
NOT_RECORDED = "The protocol was not recorded."
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, whether it is the best of its column, and the number of its protocol."""

    text: str
    best: bool = False
    protocol: Optional[int] = None


def score_title(name: str) -> tuple[str, str]:
    """Return a score's title and the arrow of its better direction: ``classifier_fid`` is ("classifier FID", "↓")."""
    if name in SCORES:
        return SCORES[name]
    for suffix, (title, arrow) in SUFFIXES.items():
        if name.endswith(f"_{suffix}"):
            return f"{name.removesuffix(f'_{suffix}').replace('_', ' ')} {title}", arrow
    return name, ""


def score_order(name: str) -> tuple[int, str]:
    """Return a key that sorts scores by kind, then by prefix."""
    kinds = [n for n, kind in enumerate(SUFFIXES) if name == kind or name.endswith(f"_{kind}")]
    return (min(kinds, default=len(SUFFIXES)), name)


def method(run: Run) -> str:
    """Return the method of a run as the paper names it: SN, FPC-3, APC, none."""
    if run.config is None:
        return MISSING
    kind = str(run.config.get("preconditioning.class_path") or "none").rpartition(".")[2]
    degree = run.config.get("preconditioning.init_args.degree", "own polynomial")
    if kind == "FixedPreconditioning":
        return "SN" if degree == 1 else f"FPC-{degree}"
    goal = run.config.get("preconditioning.init_args.goal")
    apc = "APC" if goal is None else f"APC, goal {goal:g}"
    return {"AdaptivePreconditioning": apc, "SVDParametrization": "SVD"}.get(kind, kind)


def final_scores(run: Run) -> dict[str, tuple[float, str]]:
    """Return a run's final scores, each with its protocol, which is empty where it was not recorded.

    They are those of the newest evaluation and of others at the same iteration, as with other features; without any,
    the last ones during training.
    """
    if not run.evaluations:
        metrics = (column for column in run.series if column.startswith("metric/"))
        return {column.removeprefix("metric/"): (float(run.series[column][1][-1]), "") for column in metrics}
    newest = run.evaluations[-1]
    return {
        str(name): (float(value), _protocol(evaluation))
        for evaluation in run.evaluations
        if evaluation.get("iteration") == newest.get("iteration")
        for name, value in (evaluation.get("scores") or {}).items()
        if isinstance(value, (int, float))
    }


def _protocol(evaluation: dict[str, Any]) -> str:
    # The iteration is no part of how a score is measured; `scored_elsewhere` tells it where it matters.
    text = re.sub(r"^Iteration [\d,]+, ", "", str(evaluation.get("protocol") or ""))
    return text[:1].upper() + text[1:]


def scored_elsewhere(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Return (run, iteration) for each run whose final scores are not those of its last iteration."""
    scored = ((run, run.evaluations[-1].get("iteration")) for run in runs if run.evaluations)
    return [(run.name, int(iteration)) for run, iteration in scored if iteration not in (None, run.iterations)]


def results(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the table of results.

    Returns:
        ``headings`` [(title, arrow)], ``rows`` [(run, method, iterations, [Cell, ...])] and ``protocols``, the
        sentences that the cells number from 1. The best of a column is marked where the runs can be compared: scores
        of one protocol that was recorded, condition numbers of the same layers.
    """
    scores = [final_scores(run) for run in runs]
    protocols = list(dict.fromkeys(protocol for found in scores for _, protocol in found.values()))
    headings, columns = [], []
    for score in sorted({name for found in scores for name in found}, key=score_order):
        cells = [found.get(score, (None, None)) for found in scores]
        used = {protocol for _, protocol in cells if protocol is not None}
        title, arrow = score_title(score)
        headings.append((title, arrow))
        marks = [None if protocol is None else protocols.index(protocol) + 1 for _, protocol in cells]
        columns.append(
            _column([value for value, _ in cells], arrow if len(used) == 1 and "" not in used else "", marks)
        )
    same_layers = len({tuple(run.layers(r"condition/(.+)/after")) for run in runs}) == 1
    for column, title in CONDITIONS.items():
        if any(column in run.series for run in runs):
            headings.append((title, DOWN))
            columns.append(_column([run.last(column) for run in runs], DOWN if same_layers else ""))
    rows = [(run, method(run), f"{run.iterations:,}", [c[i] for c in columns]) for i, run in enumerate(runs)]
    return {"headings": headings, "rows": rows, "protocols": [text or NOT_RECORDED for text in protocols]}


def _column(
    values: Sequence[Optional[float]], arrow: str, protocols: Optional[Sequence[Optional[int]]] = None
) -> list[Cell]:
    """Return a column's cells; the best are those that read like the best one, where there is something to compare."""
    comparable = [value for value in values if value is not None and math.isfinite(value)]
    texts = format_numbers(values)
    best = None
    if arrow and len(comparable) > 1:
        best = texts[values.index(max(comparable) if arrow == UP else min(comparable))]
    marks = protocols or [None] * len(texts)
    return [Cell(text, text == best, mark) for text, mark in zip(texts, marks, strict=True)]


def format_numbers(values: Sequence[Optional[float]]) -> list[str]:
    """Return numbers as text with as many decimals as the smallest of them needs."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value]
    smallest = min(sizes, default=1.0)
    decimals = 0 if smallest >= 1000 else 2 if smallest >= 1 else 3 if smallest >= 0.1 else 4
    return [_format(value, decimals) for value in values]


def _format(value: Optional[float], decimals: int) -> str:
    if value is None:
        return MISSING
    if math.isfinite(value):
        return f"{value:,.{decimals}f}" if abs(value) < 1e7 else f"{value:.2e}"
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "\N{MINUS SIGN}∞"
