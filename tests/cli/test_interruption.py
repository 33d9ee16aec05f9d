"""Runs of the command that end early, and go on."""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import ROOT
from helpers.command import one_error, one_error_of, pcgan
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.runs import check_writable, last_checkpoint, read_rows

pytestmark = pytest.mark.slow

TINY = (
    *("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--data.max_images=40", "--data.batch_size=8"),
    *("--model.generator.width=2", "--model.discriminator.width=2", "--trainer.accelerator=cpu"),
    *("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
    *("--checkpoint.every_n_train_steps=2", "--trainer.max_steps=5"),
)


def fit(monkeypatch, folder, *more):
    return pcgan(monkeypatch, *TINY, "--run_dir", folder, *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 5 iterations with a checkpoint of the fourth."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert fit(monkeypatch, folder) == 0
    return folder


@pytest.fixture
def interrupted(finished, tmp_path):
    """The same, killed after the fifth iteration."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    return folder


def end(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same_weights(first, second):
    weights = [end(folder)["state_dict"] for folder in (first, second)]
    return all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def series(folder):
    rows = [{k: v for k, v in row.items() if k != "iterations_per_second"} for row in read_rows(folder / "metrics.csv")]
    return [row for row in rows if row.keys() != {"step"}]


@pytest.fixture
def said(caplog):
    """What Lightning's logger said, which does not pass it on."""
    caplog.set_level(logging.INFO, "lightning.pytorch")
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    loggers += [logging.getLogger("pytorch_lightning.utilities.rank_zero")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    yield lambda: {record.getMessage() for record in caplog.records}
    for logger in loggers:
        logger.removeHandler(caplog.handler)


def test_run_without_a_checkpoint_begins_anew(finished, monkeypatch, tmp_path, said):
    """Killed before its first one, with rows logged already; the switch may stand in the configuration."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.csv").write_text("loss/generator,step\r\n7.0,1\r\n8.0")
    switch = tmp_path / "switch.yaml"
    switch.write_text(yaml.safe_dump({"ckpt_path": "last"}))
    assert fit(monkeypatch, folder, "--config", switch) == 0
    assert f"{folder} holds no checkpoint yet: the run starts from the beginning" in said()
    assert same_weights(folder, finished)
    assert series(folder) == series(finished)
    # The same call again: nothing is left to do, and nothing changes.
    before = (folder / "metrics.csv").read_bytes()
    random_state = end(folder)["random_states"][0]["cpu"]
    assert fit(monkeypatch, folder, "--config", switch) == 0
    assert (folder / "metrics.csv").read_bytes() == before
    assert same_weights(folder, finished)
    assert end(folder)["random_states"][0]["cpu"].equal(random_state)


def test_last_without_a_checkpoint_is_nothing_to_validate(monkeypatch, tmp_path, capsys):
    config = ROOT / "configs" / "quickstart.yaml"
    assert pcgan(monkeypatch, "validate", "--config", config, "--run_dir", tmp_path, "--ckpt_path=last") == 1
    assert f"'last' needs a checkpoint in {tmp_path}, found none" in capsys.readouterr().err


def test_taken_folder_names_the_way_out(interrupted, monkeypatch, capsys):
    shutil.rmtree(interrupted / "checkpoints")
    assert fit(monkeypatch, interrupted) == 1
    assert "or continue that run with --ckpt_path last" in capsys.readouterr().err


def test_interrupted_run_ends_as_the_undisturbed_one(interrupted, finished, monkeypatch):
    # A row of the lost fifth iteration, and one that the kill tore.
    with (interrupted / "metrics.csv").open("a") as file:
        file.write("1,2")
    assert fit(monkeypatch, interrupted, "--ckpt_path=last") == 0
    assert same_weights(interrupted, finished)
    assert series(interrupted) == series(finished)


def test_checkpoints_elsewhere_are_found(finished, interrupted, monkeypatch, tmp_path):
    """A run whose checkpoints lie in a folder of their own is continued, not begun anew."""
    elsewhere = (interrupted / "checkpoints").rename(tmp_path / "elsewhere")
    assert last_checkpoint(interrupted) is None
    assert last_checkpoint(interrupted, elsewhere).parent == elsewhere
    rows = series(interrupted)
    again = ("--ckpt_path=last", "--checkpoint.dirpath", elsewhere, "--trainer.max_steps=4")
    assert fit(monkeypatch, interrupted, *again) == 0  # it is there already
    assert series(interrupted) == rows


@pytest.mark.parametrize("how", ["last", "path"])
def test_a_start_reads_its_checkpoint_once(how, interrupted, monkeypatch):
    """It is looked for, checked, asked for its iteration and loaded; the logger with a folder of its own asks too."""
    pytest.importorskip("tensorboard")
    checkpoint, read, load = interrupted / "checkpoints" / "iteration_0000004.ckpt", [], torch.load

    monkeypatch.setattr(torch, "load", lambda file, *a, **k: (read.append(file), load(file, *a, **k))[1])
    path = "last" if how == "last" else checkpoint
    logger = ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=.")
    assert fit(monkeypatch, interrupted, *logger, "--ckpt_path", path) == 0
    assert list(map(str, read)) == [str(checkpoint)]


def age(path, seconds):
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_damaged_checkpoint_is_passed_by(interrupted, said):
    whole = interrupted / "checkpoints" / "iteration_0000004.ckpt"
    age(whole, 60)
    damaged = interrupted / "checkpoints" / "last.ckpt"
    damaged.write_bytes(whole.read_bytes()[:-100])
    assert last_checkpoint(interrupted) == whole
    (warning,) = (line for line in said() if "damaged" in line)
    assert str(damaged) in warning
    assert "\n" not in warning


def test_run_of_damaged_checkpoints_is_not_begun_anew(interrupted, monkeypatch, capsys):
    before = (interrupted / "metrics.csv").read_bytes()
    (checkpoint,) = (interrupted / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert fit(monkeypatch, interrupted, "--ckpt_path=last") == 1
    assert f"all checkpoints in {interrupted} are damaged" in capsys.readouterr().err
    assert (interrupted / "metrics.csv").read_bytes() == before


def test_checkpoint_of_slurm_counts(interrupted):
    older = interrupted / "checkpoints" / "iteration_0000004.ckpt"
    requeued = shutil.copy(older, interrupted / "hpc_ckpt_1.ckpt")
    age(older, 60)
    assert last_checkpoint(interrupted) == requeued
    age(requeued, 120)
    assert last_checkpoint(interrupted) == older
    (interrupted / "checkpoints" / "other.ckpt.part").write_bytes(b"half")
    assert last_checkpoint(interrupted) == older


class Terminate(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_the_run_goes_on(finished, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    terminate = f"--trainer.callbacks+={Terminate.__module__}.Terminate"
    monkeypatch.setitem(sys.modules, Terminate.__module__, sys.modules[__name__])
    assert fit(monkeypatch, folder, terminate) == 0
    assert end(folder)["global_step"] == 3
    assert not (folder / "samples" / "iteration_0000003.png").exists()
    assert max(int(row["step"]) for row in series(folder)) == 3
    assert fit(monkeypatch, folder, "--ckpt_path=last") == 0
    assert same_weights(folder, finished)
    assert series(folder) == series(finished)


@pytest.mark.ddp
def test_killed_process_of_two(tmp_path):
    """One line and a status of the other, after which the run goes on."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = {k: v for k, v in os.environ.items() if k not in ("PL_GLOBAL_SEED", "LOCAL_RANK")}
    two = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.callbacks+=helpers.kill_once.KillOnce")
    command = [sys.executable, "-m", "pcgan_lightning.cli", *TINY, "--run_dir", tmp_path, *two, "--ckpt_path=last"]
    killed, resumed = (
        subprocess.run(
            list(map(str, command)), env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        for _ in range(2)
    )
    assert killed.returncode == 1
    assert one_error_of(killed.stderr) == (
        "pcgan: error: process 1 (SIGKILL) of this run has ended, which can't go on without it after iteration 3; "
        "continue with --ckpt_path last"
    )
    assert "gloo" not in killed.stderr.replace("distributed_backend=gloo", "")
    assert resumed.returncode == 0, resumed.stderr
    assert end(tmp_path)["global_step"] == 5


def test_checkpoint_arguments_are_those_of_lightning(monkeypatch, capsys):
    assert pcgan(monkeypatch, *TINY, "--checkpoint.save_top_k=-1", "--print_config") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)["checkpoint"]
    assert resolved["every_n_train_steps"] == 2
    assert resolved["save_top_k"] == -1
    assert "train_time_interval" in resolved
    assert pcgan(monkeypatch, *TINY, "--checkpoint.save_on_exception=true") == 1
    assert "`save_on_exception` must be false" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["{tmp}/file/run", "/proc/nowhere/run"])
def test_folder_that_cannot_be_written_to(place, monkeypatch, tmp_path, capsys):
    """Told before anything is built: there is no such source of data, and nobody says so."""
    (tmp_path / "file").write_text("mine")
    folder = place.format(tmp=tmp_path)
    assert fit(monkeypatch, folder, "--data.source=nowhere") == 1
    assert f"argument `run_dir` must be a folder that can be written to, got {folder}: " in one_error(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_looking_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_full_disk(interrupted, monkeypatch):
    """Files may not grow over a limit: the checkpoint does not fit, the former one is whole, and serves to go on."""
    former = {path: path.read_bytes() for path in (interrupted / "checkpoints").iterdir()}
    size = max(map(len, former.values()))
    more = ("--trainer.max_steps=7", "--ckpt_path=last")
    done = subprocess.run(
        [sys.executable, "-m", "pcgan_lightning.cli", *map(str, (*TINY, "--run_dir", interrupted)), *more],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "iteration_0000006.ckpt can't be written, former ones are untouched: File too large" in one_error_of(
        done.stderr
    )
    assert {path: path.read_bytes() for path in (interrupted / "checkpoints").iterdir()} == former
    assert fit(monkeypatch, interrupted, *more) == 0
    assert end(interrupted)["global_step"] == 7


def test_tensorboard_goes_on_in_its_folder(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=."]
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    assert fit(monkeypatch, folder, *logger) == 0
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert fit(monkeypatch, folder, *logger, "--ckpt_path=last", "--trainer.max_steps=6") == 0
    (events,) = (folder / "lightning_logs").iterdir()
    accumulator = EventAccumulator(str(events)).Reload()
    assert [event.step for event in accumulator.Scalars("loss/generator")] == [1, 2, 3, 4, 5, 6]


def test_wandb_goes_on_in_its_run(tmp_path):
    """In processes of their own, as they would be: W&B keeps more between the runs of one than it says."""
    folder = tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    def process(*more):
        logger = ("--trainer.logger=WandbLogger", "--trainer.logger.offline=true")
        command = [sys.executable, "-m", "pcgan_lightning.cli", *TINY, "--run_dir", folder, *logger, *more]
        subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=True)

    process()
    (folder / "checkpoints" / "last.ckpt").unlink()
    process("--ckpt_path=last", "--trainer.max_steps=6")
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert {run.name.rpartition("-")[2] for run in runs} == {(folder / "wandb_id.txt").read_text().strip()}
