"""What several test files share; importable by them and by the processes that they start."""

import os
import socket
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


def join_processes(rank, processes, port):
    """Be one of several processes that somebody else started, as torchrun would have it."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }


def unused_port():
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
