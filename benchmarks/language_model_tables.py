"""The table of benchmarks/language_model.py, in Markdown."""

from statistics import mean, stdev
from typing import Any

import numpy as np
from markdown_tables import markdown

NAMES = {
    "none": "no PC-layers",
    "unit 1": '`scale="unit"`, degree 1',
    "norm 7": '`scale="norm"`, degree 7',
    "learnable 7": '`scale="learnable"`, degree 7',
}


def language_model(content: dict[str, Any]) -> list[str]:
    """Return final losses, their differences to the plain runs of the same seeds, and losses at equal seconds."""
    rows, settings = content["result"], content["settings"]
    plain = {row["seed"]: row for row in rows if row["method"] == "none"}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["seed"] in plain]
        losses = [row["loss"][-1] for row in own]
        differences = [row["loss"][-1] - plain[row["seed"]]["loss"][-1] for row in own]
        at_once = [np.interp(plain[row["seed"]]["seconds"][-1], row["seconds"], row["loss"]) for row in own]
        seconds = mean(row["seconds"][-1] for row in own)
        norms = f"{min(row['norms'][0] for row in own):.2g} to {max(row['norms'][1] for row in own):.2g}"
        cells = [NAMES[method], _spread(losses), "" if method == "none" else verdict(differences)]
        cells += [f"{seconds:.1f}", _spread(at_once), norms, f"{mean(row['condition'] for row in own):.1f}"]
        lines.append(cells)
    heads = ["weights of the blocks", "held-out loss at the end", "difference to none", "seconds"]
    heads += ["loss when none ended", "norms at the end", "modified condition number, mean"]
    note = (
        f"Nats a character, means and standard deviations over seed(s) {', '.join(map(str, sorted(plain)))} after "
        f"{settings['updates']} updates of AdamW with step size {settings['lr']:g}: {settings['blocks']} blocks of "
        f"width {settings['width']}, context {settings['context']}, batch {settings['batch_size']}, "
        f"{settings['characters']:,} characters (text {settings['text']}). Seconds of processor time. Norms and "
        "condition numbers are of the effective weights; a difference counts where all seeds agree on its sign and "
        "its mean is at least twice its standard error."
    )
    return markdown(heads, lines, note)


def verdict(differences: list[float]) -> str:
    """Return the mean difference, and by the plan's rule whether it is one."""
    middle = mean(differences)
    if len(differences) == 1:
        return f"{middle:+.3f}, one seed"
    agree = len({difference > 0 for difference in differences}) == 1
    sure = agree and abs(middle) >= 2 * stdev(differences) / len(differences) ** 0.5
    return f"{middle:+.3f}, " + (("worse" if middle > 0 else "better") if sure else "not told apart")


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
