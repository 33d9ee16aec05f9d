"""Reading the ``metrics.csv`` of a run folder."""

import csv
import io
from pathlib import Path

# Of a table; a run that measures a hundred layers in ten ways has a thousand.
MAXIMUM_COLUMNS = 10_000


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv`` without empty cells, and without a last line that is not finished.

    Raises:
        ValueError: for bytes that are no text, or more columns than any run has.
        csv.Error: for a text that is no table.
    """
    if not path.exists():
        return []
    content = path.read_bytes().decode()
    whole = content[: content.rfind("\n") + 1]
    table = csv.DictReader(io.StringIO(whole, newline=""))
    columns = len(table.fieldnames or ())
    if columns > MAXIMUM_COLUMNS:
        raise ValueError(f"{path} must have at most {MAXIMUM_COLUMNS:,} columns, got {columns:,}")
    return [{k: v for k, v in row.items() if v} for row in table]
