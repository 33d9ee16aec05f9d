"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import median


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> list[str]:
    """Return the lines of a table, and of paragraphs below it."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines + [line for note in notes for line in ("", note)]


def spread(values: Sequence[float], digits: str) -> str:
    """Return the median and, where the values differ, their range."""
    middle, low, high = (f"{value:{digits}}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
