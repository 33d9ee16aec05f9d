"""Results as JSON under benchmarks/results/, with all that is needed to read them later."""

import json
import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Return hardware, versions, commit and date."""
    return {
        "date": date.today().isoformat(),
        "commit": _git("describe", "--always", "--dirty=+changes", "--exclude=*"),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning")},
    }


def save_result(name: str, settings: dict[str, Any], result: Any) -> Path:
    """Write one benchmark's result."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"environment": environment(), "settings": settings, "result": result}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    cores = os.cpu_count()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {cores} cores"
    return f"{platform.processor() or platform.machine()}, {cores} cores"
