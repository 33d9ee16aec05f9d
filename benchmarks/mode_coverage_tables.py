"""The tables of benchmarks/mode_coverage.py, in Markdown."""

from collections.abc import Mapping
from typing import Any

from mode_coverage_analysis import is_central

# The order of the board's rows.
METHODS = {
    "none": "none",
    "sn": "SN",
    "fpc3": "FPC-3",
    "fpc5": "FPC-5",
    "fpc7": "FPC-7",
    "fpc9": "FPC-9",
    "fpc17": "FPC-17",
    "apc": "APC",
    "apc_goal": "APC, goal 1.5",
    "svd": "SVD",
    "weight_decay": "weight decay",
    "gradient_penalty": "gradient penalty",
    "simgd": "SimGD",
    "conopt": "ConOpt",
    "jare": "JARE",
    "dualing": "Dualing GAN, scores",
    "nsgda": "nSGDA",
    "ada_nsgda": "Ada-nSGDA",
}
SHORT = ("none", "sn", "fpc3", "fpc5", "fpc7", "fpc9", "fpc17", "apc", "apc_goal")  # what the front page shows
LOSSES = {"HingeLoss": "hinge", "NonSaturatingLoss": "non-saturating"}
NAMES = {
    "condition": "largest modified condition number",
    "generator_gradient": "gradient that the generator gets",
    "learning": "fall of the discriminator's loss in 10 extra steps",
}


def mode_coverage(content: Mapping[str, Any]) -> list[str]:
    """Return the board, the paired tests, what goes with success, and where the runs were made."""
    runs = content["result"]["runs"]
    began = ", ".join(sorted({f"{run['commit']} with {run['threads']} thread(s) each" for run in runs}))
    lines = [*board(content), "", *tests(content), "", *mechanisms(content)]
    return [*lines, "", f"{len(runs)} runs; they began at commit {began}."] if runs else lines


def board(content: Mapping[str, Any]) -> list[str]:
    """Return one row a cell: medians over seeds and ranges."""
    result, iterations = content["result"], content["settings"]["iterations"]
    lines = [
        f"| method | discriminator, rate, loss | seeds | modes after {iterations:,} iterations: median (range) "
        "| KL to uniform | modes after as many seconds |",
        "|---|---|---|---|---|---|",
    ]
    order = list(METHODS)
    for cell in sorted(result["summary"], key=lambda cell: (not is_central(cell), order.index(cell["method"]))):
        depth = f"+{cell['depth']}" if cell["depth"] else "shallow"
        where = f"{depth}, {cell['rate']:g}, {LOSSES[cell['loss']]}{'' if cell['linear_relu'] else ', no first ReLU'}"
        equal = result["equal_seconds"].get(cell["method"]) if is_central(cell) else None
        divergence = _spread(cell["kl_to_uniform"], 2) if "kl_to_uniform" in cell else "diverged"
        columns = [METHODS[cell["method"]], where, str(len(cell["seeds"])), _spread(cell["modes_covered"], 0)]
        lines.append("| " + " | ".join([*columns, divergence, _spread(equal, 0) if equal else ""]) + " |")
    return lines


def mode_coverage_short(content: Mapping[str, Any]) -> list[str]:
    """Return the central row's methods alone."""
    iterations = content["settings"]["iterations"]
    lines = [
        f"| discriminator | seeds | modes covered after {iterations:,} iterations: median (range) | KL to uniform |",
        "|---|---|---|---|",
    ]
    cells = {cell["method"]: cell for cell in content["result"]["summary"] if is_central(cell)}
    for method in (method for method in SHORT if method in cells):
        cell = cells[method]
        numbers = [str(len(cell["seeds"])), _spread(cell["modes_covered"], 0), _spread(cell["kl_to_uniform"], 2)]
        lines.append("| " + " | ".join([METHODS[method], *numbers]) + " |")
    return lines


def tests(content: Mapping[str, Any]) -> list[str]:
    """Return the paired tests against SN as sentences; that of FPC-7 is the planned one."""
    lines = []
    for test in content["result"]["tests"]:
        differences = ", ".join(f"{difference:+d}" for difference in test["differences"])
        planned = " (the planned test)" if test["better"] == "fpc7" else ""
        lines.append(
            f"- {METHODS[test['better']]} minus SN on seeds {', '.join(map(str, test['seeds']))}: {differences} modes; "
            f"one-sided Wilcoxon p = {test['p_value']:.3g}{planned}"
        )
    return lines


def mechanisms(content: Mapping[str, Any]) -> list[str]:
    """Return the rank correlations with the final modes, and what condition numbers foretell."""
    lines = ["| over runs of the central row | up to iteration | runs | Spearman's correlation with modes | p |"]
    lines.append("|---|---|---|---|---|")
    for row in content["result"]["correlations"]:
        values = f"{row['correlation']:+.2f} | {row['p_value']:.2g}"
        lines.append(f"| {NAMES[row['mechanism']]} | {row['until']:,} | {row['runs']} | {values} |")
    found = content["result"]["foretelling"]
    share = found["probability_larger"]
    said = "The condition number before one is larger than at another time in runs of the same method with probability"
    known = "" if share is None else f" {said} {share:.2f} (0.5 would foretell nothing)."
    return [*lines, "", f"{found['collapses']} collapses in {found['collapses'] + found['others']} intervals.{known}"]


def _spread(values: Mapping[str, float], digits: int) -> str:
    low, middle, high = (f"{values[key]:.{digits}f}" for key in ("minimum", "median", "maximum"))
    return middle if low == high else f"{middle} ({low} to {high})"
