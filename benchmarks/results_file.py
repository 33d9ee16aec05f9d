"""Results as JSON under benchmarks/results/, with all that is needed to read them later."""

import json
from pathlib import Path
from typing import Any

from pcgan_lightning.runs import environment

RESULTS = Path(__file__).parent / "results"


def save_result(name: str, settings: dict[str, Any], result: Any) -> Path:
    """Write one benchmark's result."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"environment": environment(), "settings": settings, "result": result}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
