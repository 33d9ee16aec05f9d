"""What several test files share; importable by them and by the processes that they start."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def run_script(helper: ModuleType, *arguments, **kwargs):
    """Run a module of this folder in a process of its own, as from a shell without a launcher's variables."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PL_GLOBAL_SEED", "LOCAL_RANK", "RANK", "WORLD_SIZE")
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, helper.__file__, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **kwargs)
