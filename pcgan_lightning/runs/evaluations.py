"""Scores in a run folder, each with what is needed to read it later."""

import json
from datetime import datetime
from pathlib import Path

from pcgan_lightning.runs.folder import EVALUATIONS
from pcgan_lightning.runs.writing import write_whole


def evaluation_path(folder: Path, name: str, label: str, part: str) -> Path:
    """Return where scores of a run are saved.

    Args:
        folder: of the run.
        name: of the checkpoint or the iteration that is scored.
        label: of the features; empty for Inception's.
        part: which real images were compared with.
    """
    return folder / EVALUATIONS / f"{name}_{label or 'inception'}_{part}.json"


def save_scores(path: Path, scores: dict[str, float], protocol: str, iteration: int) -> None:
    """Write scores, the sentence that says how they were made, their iteration and the date."""
    date = datetime.now().isoformat(timespec="seconds")
    content = {"iteration": iteration, "scores": scores, "protocol": protocol, "date": date}
    write_whole(path, json.dumps(content, indent=2) + "\n")
