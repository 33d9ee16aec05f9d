"""Reading the ``metrics.csv`` of a run folder."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

# Of a table; a run that measures a hundred layers in ten ways has a thousand.
MAXIMUM_COLUMNS = 10_000
_STEP = "step"
_TRUTHS = {"True": 1.0, "False": 0.0}


def read_rows(path: Path, argument: str = "run_dir") -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv`` without empty cells; none where there is no such file.

    A last line without an end is what a killed process left of it, and is dropped. All other damage is refused: rows
    that were guessed would be a series that never was.

    Args:
        path: the file.
        argument: that the file belongs to, for the message.

    Raises:
        ValueError: naming the file, and the line where it can be told.
    """
    if not path.exists():
        return []
    try:
        return list(_rows(path.read_bytes()))
    except (ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"{_rule(argument)}, got {path}: {error}") from error


def read_numbers(path: Path, argument: str = "run_dir") -> list[dict[str, float]]:
    """Return the rows of a ``metrics.csv`` as numbers; see :func:`read_rows`.

    Raises:
        ValueError: for a cell that is none, as well.
    """
    rows = read_rows(path, argument)
    try:
        return [{k: _TRUTHS[v] if v in _TRUTHS else float(v) for k, v in row.items()} for row in rows]
    except ValueError as error:
        raise ValueError(f"{_rule(argument)}, got {path}: {error}") from error


def _rule(argument: str) -> str:
    return f"argument `{argument}` must hold readable metrics"


def _rows(content: bytes) -> Iterator[dict[str, str]]:
    whole = content[: content.rfind(b"\n") + 1].decode()
    lines = csv.reader(io.StringIO(whole, newline=""))
    columns = next(lines, [])
    if len(columns) > MAXIMUM_COLUMNS:
        raise ValueError(f"a table must have at most {MAXIMUM_COLUMNS:,} columns, got {len(columns):,}")
    if _STEP not in columns or len({*columns}) < len(columns):
        raise ValueError(f"its first line must name each column once, and a column '{_STEP}'")
    for cells in filter(None, lines):
        if len(cells) != len(columns):
            raise ValueError(f"line {lines.line_num} must have {len(columns)} cells, got {len(cells)}")
        row = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
        step = float(row.get(_STEP, "nan"))
        if not (step >= 0 and step.is_integer()):
            raise ValueError(f"line {lines.line_num} must have a step, got {row.get(_STEP, '')!r}")
        yield row
