"""A run folder has one writer."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from pcgan_lightning.runs import claimed

OWNER = "import sys, time; from pathlib import Path; from pcgan_lightning.runs import claimed\n"
HOLD = OWNER + "with claimed(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
RACE = OWNER + (
    "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
    "try:\n    with claimed(Path(sys.argv[1])): print('won', flush=True); sys.stdin.read()\n"
    "except BlockingIOError as error: print(error, flush=True)"
)


def test_the_second_one_is_told_of_the_first(tmp_path):
    with claimed(tmp_path):
        expected = f"got {tmp_path}, which belongs to process {os.getpid()} on {platform.node()}; wait for its end"
        with pytest.raises(BlockingIOError, match=expected), claimed(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    with claimed(tmp_path):
        pass


def test_a_killed_owner_leaves_nothing_to_clean_up(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(BlockingIOError, match=f"process {process.pid} on"), claimed(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with claimed(tmp_path):
        assert (tmp_path / "run.owner").read_text().startswith(f"process {os.getpid()} ")


def test_a_strangers_owner_file_can_not_break_the_line(tmp_path):
    with claimed(tmp_path):
        (tmp_path / "run.owner").write_bytes(b"\x1b[2J\n" * 10_000)
        with pytest.raises(BlockingIOError) as caught, claimed(tmp_path):
            pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.slow
def test_of_simultaneous_starts_one_wins(tmp_path):
    """Fifty at once, where pairs would meet less often."""
    start = str(time.time() + 20)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", RACE, tmp_path, start], **pipes) for _ in range(50)]
    said = [racer.stdout.readline() for racer in racers]
    for racer in racers:
        racer.communicate()
    assert sum(line == "won\n" for line in said) == 1
    assert all(" belongs to " in line for line in said if line != "won\n")
