"""The scripts of benchmarks/, at tiny size."""

import argparse
import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from pcgan_lightning.games import JARE

pytestmark = pytest.mark.slow


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
    folder = tmp_path / "runs" / "apc_betas0.5_0"
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
    assert row.endswith("| 19.53; 12.06, 2.81, 3.19 |")
    assert "batch 4, 20 iterations at most" in printed
    assert saved["protocol"] in printed
    assert "APC" in (tmp_path / "runs" / "report.html").read_text()
    with (folder / "metrics.csv").open() as file:
        rows = [int(float(r["step"])) for r in csv.DictReader(file) if r["metric/classifier_fid"]]
    assert rows == [10, 20]

    process = table1()
    again, said = process.communicate(timeout=200)
    assert again == printed
    assert "$ pcgan" not in said, "what is finished is not trained again"


def test_table2_on_a_folder_of_images(tmp_path):
    """LSUN itself is not here: as many images as FID wants, small networks, one method of the paper."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (200, 130, 150, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    arguments = (
        *("--dataset", "lsun_bedroom_128", "--source", folder, "--methods", "svd", "--iterations", 2, "--widths", 1, 1),
        *("--batch_size", 4, "--count", 200, "--scores", "fid", "--evaluate_every", 2),
        *("--runs", tmp_path / "runs", "--no-accelerate"),
    )
    command = [sys.executable, ROOT / "benchmarks" / "table2.py", *map(str, arguments)]
    environment = os.environ | {"PCGAN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "runs" / "svd_betas0.5_0" / "log.txt").read_text()
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| SVD |")]
    conditions = [float(cell) for cell in row.split("|")[5:8]]
    assert conditions[0] >= conditions[1] >= 1
    assert row.endswith("| 50.92; 1.75, 1.55, 1.46 |")
    assert "Here: lsun_bedroom_128, (1, 1) updates, widths 1/1, batch 4, 2 iterations" in done.stdout
    assert (tmp_path / "runs" / "report.html").is_file()


def test_every_run_of_table2_has_a_configuration(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    runs, datasets = importlib.import_module("method_runs"), importlib.import_module("table2").DATASETS
    published = importlib.import_module("table1_tables").PUBLISHED
    parser = argparse.ArgumentParser()
    runs.add_arguments(parser)
    arguments = parser.parse_args([])
    assert len(datasets) == 4
    for dataset in datasets:
        assert set(published[dataset]) == {"sn", "fpc3", "apc", "svd"}
        for method in arguments.methods:
            call = runs.command(arguments, dataset, method, (0.5, 0.999), 0)
            files = [value for value in call if value.endswith(".yaml")]
            assert all((ROOT / value).is_file() for value in files), files
            assert f"configs/pcgan/{dataset}_" in files[0]


def test_mixture_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """Two calls end where one does, weight by weight; what is finished is not trained again."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    train = importlib.import_module("mixture").train

    def series(name, iterations):
        sizes = argparse.Namespace(iterations=iterations, every=10, width=8, lr=0.02)
        return train(tmp_path / name, JARE(10.0), 0, sizes)

    direct = series("direct", 30)
    assert direct["iteration"] == [10, 20, 30]
    series("staged", 20)
    assert series("staged", 30) == direct
    weights, again = (torch.load(tmp_path / n, weights_only=True)["state_dict"] for n in ("direct", "staged"))
    assert all(weights[name].equal(again[name]) for name in weights)
    written = (tmp_path / "staged").stat().st_mtime_ns
    assert series("staged", 20) == direct
    assert (tmp_path / "staged").stat().st_mtime_ns == written


def test_killed_runs_end_as_the_undisturbed_one(tmp_path, monkeypatch):
    """A kill of real processes; what the harness calls equal is so, and it sees a difference."""
    runs = tmp_path / "runs"
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--kills", "1", "--iterations", "20", "--runs", runs]
    done = subprocess.run(map(str, command), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| in all | 1 | 1 of 1 |" in done.stdout

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("faults")
    reference, *killed = sorted(runs.glob("*/"), key=lambda path: path.name != "reference")
    assert not any(script.differences(folder, reference) for folder in killed)
    last = reference / "checkpoints" / "last.ckpt"
    end = torch.load(last, weights_only=True)
    end["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] += 1e-7
    torch.save(end, last)
    header, _, *rest = (reference / "metrics.csv").read_bytes().splitlines(keepends=True)
    (reference / "metrics.csv").write_bytes(header + b"".join(rest))
    assert script.differences(killed[0], reference) == ["optimizer_states/0/state/0/exp_avg", "metrics.csv"]


CHECKPOINT = "run/checkpoints/iteration_0000002.ckpt.part"


def test_a_kill_at_a_file_operation_changes_nothing(tmp_path):
    """One by SIGKILL, and in the middle of a checkpoint's writing; all of them take half an hour."""
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--points", "--runs", tmp_path, "--iterations", "2"]
    done = subprocess.run(
        [*map(str, command), "--only", "19", f"write {CHECKPOINT}"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" write {CHECKPOINT}: bit-identical\n" in done.stdout
    assert "| 2 | 2 of 2 |" in done.stdout
    assert "1 times by SIGKILL" in done.stdout


def test_theorem1(drawn, tmp_path, monkeypatch):
    """What it saves is what the table says, and there is a picture."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script, table = importlib.import_module("theorem1"), importlib.import_module("theorem1_tables").theorem1
    monkeypatch.setattr(importlib.import_module("results_file"), "RESULTS", tmp_path)
    monkeypatch.setattr(script, "PICTURE", tmp_path / "picture.png")
    sizes = "--random 4 --random_iterations 5 --depths 2 --conditions 1 10 --iterations 70 --save"
    monkeypatch.setattr(sys, "argv", ["theorem1.py", *sizes.split()])
    script.main()
    content = json.loads((tmp_path / "theorem1.json").read_text())
    row = next(row for row in content["result"]["curves"] if (row["condition"], row["method"]) == (10, "FPC-7"))
    lines = table(content)
    assert lines[3].startswith(f"| 2 | 10 | > 70 | {row['iterations_to_ratio']} |")
    assert "(2) is violated at 0 of " in lines[-1]
    assert "4 random settings" in lines[-1]
    assert Image.open(tmp_path / "picture.png").size > (900, 400)


def test_kernels_of_an_update(monkeypatch):
    """As many of a plain layer as one counts by hand, and not many more with PC-layers."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("kernels")
    with script.KernelCounter() as counter:
        torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3, requires_grad=True)).sum().backward()
    # Three of ones, the product, the sum, the gradient of the sum, and the product back.
    assert counter.counts == {"ones": 2, "mm": 2, "sum": 1, "ones_like": 1}
    plain, *degrees = (script.kernels(script.VARIANTS[n], 64).total() for n in ("plain", "degree 1", "degree 17"))
    assert max(degrees) - plain <= 120
