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
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode()
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(whole, newline=""))]
