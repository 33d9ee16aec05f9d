"""Reading the ``metrics.csv`` of a run folder."""

import csv
import io
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv`` without empty cells, and without a last line that is not finished.

    Raises:
        ValueError: for bytes that are no text.
        csv.Error: for a text that is no table.
    """
    if not path.exists():
        return []
    content = path.read_bytes().decode()
    whole = content[: content.rfind("\n") + 1]
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(whole, newline=""))]
