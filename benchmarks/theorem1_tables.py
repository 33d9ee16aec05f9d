"""The table of benchmarks/theorem1.py, in Markdown."""

from collections.abc import Collection
from typing import Any

from markdown_tables import markdown


def theorem1(content: dict[str, Any]) -> list[str]:
    """Return iterations to the ratio of squared errors, and where R was left, by depth, condition number and method."""
    rows, settings = content["result"]["curves"], content["settings"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for depth, condition in dict.fromkeys((row["depth"], row["condition"]) for row in rows):
        own = [row for row in rows if (row["depth"], row["condition"]) == (depth, condition)]
        cells = [_cell([row for row in own if row["method"] == method], settings["iterations"]) for method in methods]
        lines.append([str(depth), f"{condition:g}", *cells])
    random = content["result"]["random"]
    plain, effective = ([row for row in random if (row["degree"] is None) == bare] for bare in (True, False))
    violated = sum(row["violations"] > 0 for row in effective)
    bare = [row for row in rows if row["method"] in ("plain", "FPC-7 at the start")]
    nearest = min(row["nearest"] for row in plain if row["nearest"] is not None)
    seeds = len({row["seed"] for row in rows})
    note = (
        f"Iterations until the squared error is {settings['ratio']:g} of its start; in brackets the first one out of "
        f"R. {'One seed' if seeds == 1 else f'{seeds} seeds: the range, where they differ'}."
    )
    found = (
        f"Without PC-layers (2) is violated at {_counts(plain)} updates in R of {len(plain)} random settings, where "
        f"the smallest decrease is {nearest:.2f} times the promised one, and at {_counts(bare)} of the runs above. "
        f"With FPC-7, which the theorem does not cover, it is violated in {violated} of the {len(effective)} random "
        f"settings, at {_counts(effective)} updates."
    )
    return markdown(["depth", "condition number", *methods], lines, note, found)


def _counts(rows: Collection[dict[str, Any]]) -> str:
    violations, updates = (sum(row[key] for row in rows) for key in ("violations", "updates"))
    return f"{violations:,} of {updates:,}"


def _cell(rows: list[dict[str, Any]], iterations: int) -> str:
    reached = sorted(row["iterations_to_ratio"] or iterations + 1 for row in rows)
    left = sorted(row["left"] for row in rows if row["left"] is not None)
    ends = [f"> {iterations:,}" if value > iterations else f"{value:,}" for value in (reached[0], reached[-1])]
    text = " to ".join(dict.fromkeys(ends))
    if not left:
        return text
    some = "" if len(left) == len(rows) else f"; {len(left)} of {len(rows)}"
    return f"{text} (out at {' to '.join(dict.fromkeys((str(left[0]), str(left[-1]))))}{some})"
