"""The command line: configs, run folders, generation, mistakes."""

import csv
import importlib.util
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT
from helpers.command import one_error, pcgan, quickstart
from PIL import Image


def config_of(path):
    return yaml.safe_load(path.read_text())


def test_quickstart_leaves_everything(finished):
    files = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "samples/iteration_0000000.png",
        "samples/iteration_0000004.png",
        "spectra/singular_values.png",
        "spectra/condition_numbers.png",
    } <= files
    assert config_of(finished / "config.yaml")["trainer"]["max_steps"] == 4
    assert torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_run_is_never_overwritten(finished, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert quickstart(monkeypatch, finished) == 1
    assert "`run_dir` must not hold a run yet" in one_error(capsys)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


@pytest.mark.slow
def test_run_is_continued_in_its_folder(finished, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert (
        quickstart(monkeypatch, folder, "--trainer.max_steps=6", "--ckpt_path=last", "--trainer.log_every_n_steps=1")
        == 0
    )
    with (folder / "metrics.csv").open() as file:
        steps = [int(float(row["step"])) for row in csv.DictReader(file) if row["loss/generator"]]
    assert steps == [5, 6]  # the first part logged every tenth iteration: none of its four
    with (folder / "metrics.csv").open() as file:
        assert [int(float(r["step"])) for r in csv.DictReader(file) if r["condition/max"]] == [0, 4, 6]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert (folder / "config.yaml").read_text() == (finished / "config.yaml").read_text()
    assert config_of(folder / "config_1.yaml")["trainer"]["max_steps"] == 6


@pytest.mark.slow
def test_generate_files_and_grid(finished, monkeypatch, tmp_path):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    common = ("generate", checkpoint, "--seed=3")
    assert pcgan(monkeypatch, *common, "--count=5", "--output", tmp_path / "five") == 0
    assert pcgan(monkeypatch, *common, "--count=3", "--batch_size=2", "--output", tmp_path / "three") == 0
    assert pcgan(monkeypatch, *common, "--count=3", "--averaged=false", "--output", tmp_path / "raw") == 0
    assert pcgan(monkeypatch, *common, "--count=9", "--grid=true", "--output", tmp_path / "grid.png") == 0
    read = lambda folder, n: np.asarray(Image.open(tmp_path / folder / f"{n:06d}.png"))  # noqa: E731
    assert sorted(p.name for p in (tmp_path / "five").iterdir()) == [f"{n:06d}.png" for n in range(5)]
    for n in range(3):
        # Neither the count nor the batch size changes what a number shows (up to rounding of the last bit).
        assert np.abs(read("five", n).astype(int) - read("three", n)).max() <= 1
        assert not np.array_equal(read("five", n), read("raw", n))
    assert read("five", 0).shape == (32, 32)
    assert Image.open(tmp_path / "grid.png").size == (2 * (3 * 34 + 2),) * 2


@pytest.mark.slow
def test_evaluation_subcommands(finished, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    for subcommand in ("validate", "test"):
        status = pcgan(
            monkeypatch,
            *(subcommand, "--config", finished / "config.yaml", "--data.validation_split=test", "--ckpt_path=last"),
        )
        assert status == 0
        assert "loss/discriminator" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_missing_logger_package(monkeypatch, tmp_path, capsys):
    assert importlib.util.find_spec("comet_ml") is None, "choose another package that is not installed"
    assert quickstart(monkeypatch, tmp_path / "run", "--trainer.logger=CometLogger") == 1
    assert "CometLogger needs the package comet_ml, which is not installed: pip install comet_ml" in one_error(capsys)


@pytest.mark.slow
def test_wandb_beside_the_run_folder(monkeypatch, tmp_path):
    logger = ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true"]
    assert quickstart(monkeypatch, tmp_path / "run", *logger) == 0
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_generate_refuses_what_exists(finished, monkeypatch, tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes(b"mine")
    checkpoint = finished / "checkpoints" / "last.ckpt"
    assert pcgan(monkeypatch, "generate", checkpoint, "--output", tmp_path) == 1
    assert "`output` must not exist yet or be an empty folder" in one_error(capsys)
    assert pcgan(monkeypatch, "generate", tmp_path / "no.ckpt") == 1
    assert "`checkpoint` must be a whole checkpoint file, got" in one_error(capsys)
    assert pcgan(monkeypatch, "generate", ROOT / "README.md", "--output", tmp_path / "out") == 1
    assert "`checkpoint` must be a whole checkpoint, got" in one_error(capsys)
