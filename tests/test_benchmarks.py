"""The scripts of benchmarks/, at tiny size."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path):
    """1,000 random images: as many as KID wants."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features(img=datasets.Image())
    folder = tmp_path / "source"
    folder.mkdir()
    table = datasets.Dataset.from_dict({"img": [Image.fromarray(p) for p in pixels]}, features=features)
    for split in ("train", "test"):
        table.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def table1(source, tmp_path):
    """Start the script for one method, as a process group of its own."""
    arguments = (
        *("--source", source, "--methods", "apc", "--iterations", 20, "--widths", 2, 2, "--batch_size", 4),
        *("--count", 1000, "--evaluate_every", 10, "--runs", tmp_path / "runs", "--no-accelerate"),
    )
    command = [sys.executable, ROOT / "benchmarks" / "table1.py", *map(str, arguments)]
    environment = os.environ | {"PCGAN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lambda: subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def test_table1_goes_on_where_it_was_killed(table1, tmp_path):
    folder = tmp_path / "runs" / "apc_0"
    killed = table1()
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "iteration_0000010.ckpt").exists():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (folder / "checkpoints" / "last.ckpt").exists()

    process = table1()
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "--ckpt_path last" in said
    (row,) = [line for line in printed.splitlines() if line.startswith("| APC |")]
    saved = json.loads((folder / "evaluations" / "iteration_0000020_classifier_train.json").read_text())
    assert f"{saved['scores']['classifier_fid']:.4g}" in row
    assert "19.53 | 12.06, 2.81, 3.19 |" in row
    assert "Here: widths 2/2, batch 4, 20 iterations at most" in printed
    assert saved["protocol"] in printed
    assert "APC" in (tmp_path / "runs" / "report.html").read_text()
    with (folder / "metrics.csv").open() as file:
        rows = [int(float(r["step"])) for r in csv.DictReader(file) if r["metric/classifier_fid"]]
    assert rows == [10, 20]

    process = table1()
    again, said = process.communicate(timeout=200)
    assert again == printed
    assert "$ pcgan" not in said, "what is finished is not trained again"


def test_mixture_goes_on_from_its_checkpoints(tmp_path):
    """Two calls end where one does; what is finished is not trained again."""

    def mixture(folder, iterations):
        sizes = ("--width", 8, "--lr", 0.02, "--every", 20, "--seeds", 0, "--iterations", iterations)
        command = [sys.executable, ROOT / "benchmarks" / "mixture.py", *sizes, "--runs", tmp_path / folder]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout

    direct = mixture("direct", 60)
    mixture("staged", 40)
    assert mixture("staged", 60) == direct
    folder = tmp_path / "staged" / "gamma10_width8_lr0.02"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(path.stem for path in written) == ["conopt_0", "jare_0", "simgd_0"]
    assert mixture("staged", 40) != direct
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert "60 iterations, width 8, step size 0.02, gamma 10." in direct
    state, again = (
        torch.load(tmp_path / name / folder.name / "jare_0.ckpt", weights_only=True)["state_dict"]
        for name in ("direct", "staged")
    )
    assert all(state[name].equal(again[name]) for name in state)
