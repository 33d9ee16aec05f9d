"""The sample grids of the report: which iterations are shown, and pictures inside the page."""

import base64
import bisect
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pcgan_lightning.report.run_data import Run

MAXIMUM_GRIDS = 12  # of a run
LARGE_FILE = 60_000  # bytes; a larger picture is embedded as JPEG


@dataclass(frozen=True)
class Grid:
    """One picture: its iteration, its ``data:`` address, its size."""

    iteration: int
    address: str
    width: int
    height: int


def sample_grids(runs: Sequence[Run]) -> tuple[list[int], dict[str, list[Grid]], int]:
    """Return the grids to show.

    Returns:
        The iterations that the slider stops at; for each run with grids those needed there, its last at or before each
        stop; and how many grids of all runs are left out.
    """
    shown = [run for run in runs if run.grids]
    iterations = sorted({iteration for run in shown for iteration in run.grids})
    kept = np.linspace(0, len(iterations) - 1, min(MAXIMUM_GRIDS, len(iterations))).round().astype(int)
    stops = [iterations[i] for i in kept]
    side = 640 if len(shown) < 3 else 448  # about twice the pixels of a column of the page
    grids = {}
    for run in shown:
        own = list(run.grids)
        chosen = sorted({own[max(0, bisect.bisect_right(own, stop) - 1)] for stop in stops})
        grids[run.name] = [_embed(iteration, run.grids[iteration], side) for iteration in chosen]
    left_out = sum(len(run.grids) for run in shown) - sum(map(len, grids.values()))
    return stops, grids, left_out


def _embed(iteration: int, path: Path, side: int) -> Grid:
    """Return a picture as it is where it is small, otherwise as JPEG of at most `side` pixels."""
    try:
        content, kind = path.read_bytes(), "png"
        # No other format is tried: to see some (EPS), PIL starts another program on them.
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        limit = Image.MAX_IMAGE_PIXELS  # up to twice as many, PIL itself only warns
        if limit is not None and picture.width * picture.height > limit:
            raise ValueError(f"{picture.width} x {picture.height} pixels are more than {limit}")
        picture = picture.convert("RGB")
    except Exception as error:  # PIL raises OSError, SyntaxError, its own DecompressionBombError, ...
        reason = "it is no PNG" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"argument `runs` must hold readable sample grids, got {path}: {reason}") from error
    if len(content) > LARGE_FILE or max(picture.size) > 2 * side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85, subsampling=0)
        content, kind = buffer.getvalue(), "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Grid(iteration, address, *picture.size)
