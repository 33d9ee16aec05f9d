"""The hook of benchmarks/file_operations.py sees all that changes a folder, in its order."""

import subprocess
import sys

import pytest
from helpers import ROOT

# What is written, by the ways that a run takes; and at which number it dies.
SCRIPT = """
import os, shutil, signal, sys, tempfile
from pathlib import Path
from file_operations import FileOperations
folder, last, told = Path(sys.argv[1]), int(sys.argv[2]), []

def before(operation):
    (folder / "x").is_file() and open(folder / "x").close()  # looking is no operation
    open(folder.parent / "elsewhere", "w").close()  # nor is what happens elsewhere
    told.append(operation)
    print(operation, flush=True)
    if len(told) > last:
        os.kill(os.getpid(), signal.SIGKILL)

FileOperations(folder, before).watch()
(folder / "a" / "b").mkdir(parents=True, exist_ok=True)
with (folder / "x.part").open("wb") as file:
    file.write(b"12345678")
    file.write(b"9")
    file.flush()
    os.fsync(file.fileno())
os.replace(folder / "x.part", folder / "x")
with open(folder / "x", "rb+") as file:
    file.truncate(4)
os.close(os.open(folder / "lock", os.O_RDWR | os.O_CREAT))
os.close(os.open(folder, os.O_RDONLY))
with tempfile.TemporaryFile(dir=folder) as file:
    file.write(b" ")
(folder / "lock").unlink()
(folder / "a" / "c").write_text("ab")
shutil.rmtree(folder / "a")
"""
EXPECTED = ["mkdir a/b", "mkdir a", "mkdir a/b", "open x.part", "write x.part", "fsync x.part", "replace x", "open x"]
EXPECTED += ["truncate x", "open lock", "open .", "open .", "write .", "unlink lock", "open a/c", "write a/c"]
EXPECTED += ["unlink a/c", "rmdir a/b", "rmdir a"]


def run(folder, last):
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, str(last)],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_operation_is_seen(tmp_path):
    done = run(tmp_path / "run", 1000)
    assert done.returncode == 0, done.stderr
    seen = done.stdout.splitlines()
    # In which order a folder is emptied is the system's.
    assert (seen[:16], sorted(seen[16:])) == (EXPECTED[:16], sorted(EXPECTED[16:]))
    assert (tmp_path / "run" / "x").read_bytes() == b"1234"


WHOLE = b"123456789"


@pytest.mark.parametrize(
    ("last", "left"),
    [(3, {}), (4, {"x.part": b"1234"}), (5, {"x.part": WHOLE}), (6, {"x.part": WHOLE}), (8, {"x": WHOLE})],
)
def test_a_kill_leaves_what_was_done(last, left, tmp_path):
    """Right before the operation; at a write, half of it is in the file."""
    done = run(tmp_path / "run", last)
    assert done.returncode == -9
    assert done.stdout.splitlines() == EXPECTED[: last + 1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == left
