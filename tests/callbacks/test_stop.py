"""StopOnSignal: signals end a run after a whole iteration, in all processes alike."""

import logging
import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from helpers import run_script, stop_two_processes
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_classifier, make_two_player_gan
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks import RunCheckpoint, StopOnSignal
from pcgan_lightning.callbacks.running.stop import is_lost_connection

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Send(Callback):
    """Sends signals to its own process in the middle of a batch, counted from 1, and remembers what is called."""

    def __init__(self, at, *signals, hook="on_train_batch_start"):
        self.at, self.signals, self.called = at, signals, []
        setattr(self, hook, self._send)

    def _send(self, trainer, pl_module, *_):
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            for number in self.signals:
                os.kill(os.getpid(), number)

    def on_train_batch_end(self, trainer, *_):
        self.called.append("batch")

    def on_validation_end(self, trainer, pl_module):
        self.called.append("validation")

    def on_train_end(self, trainer, pl_module):
        self.called.append("end")


class Classifier(make_classifier(pl)):
    def validation_step(self, batch, batch_idx):
        self.log("validated", 1.0)


def trainer_of(folder, *callbacks, advice="", **settings):
    defaults = {"max_epochs": 3, "num_sanity_val_steps": 0, "default_root_dir": folder}
    return pl.Trainer(callbacks=[*callbacks, StopOnSignal(advice=advice)], **QUIET | defaults | settings)


def handlers():
    return [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)]


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(autouse=True)
def hangup():
    """The tests themselves may run under `nohup`, which has every process that they start ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, None), (signal.SIGHUP, None), (signal.SIGINT, 130)])
def test_iteration_is_finished_and_saved(number, status, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)
    before, send = handlers(), Send(3, number)
    with pytest.raises(SystemExit) as stopped:
        trainer_of(tmp_path, send, advice="go on from there").fit(Classifier(), image_loader())
    logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)
    assert stopped.value.code == status  # None is 0
    assert send.called == ["batch"] * 3
    assert saved(tmp_path)["global_step"] == 3
    assert handlers() == before
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("stopped")]
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert set(said) == {f"stopped by {number.name} at iteration 3; saved {path}; go on from there"}


def test_ignored_hangup_stays_ignored(tmp_path):
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send = Send(3, signal.SIGHUP)
        trainer_of(tmp_path, send, max_steps=4).fit(Classifier(), image_loader())
        assert send.called == ["batch"] * 4 + ["end"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stopped_run_is_resumed_exactly(tmp_path):
    def weights(folder, *callbacks, ckpt_path=None):
        pl.seed_everything(0, verbose=False)
        module = Classifier()
        trainer = trainer_of(folder, *callbacks, max_epochs=2)
        trainer.fit(module, image_loader(), image_loader(), ckpt_path=ckpt_path)
        return module.state_dict()

    direct = weights(tmp_path / "direct")
    with pytest.raises(SystemExit):
        weights(tmp_path / "stopped", Send(4, signal.SIGTERM))  # the epoch's last, with its validation
    resumed = weights(tmp_path / "stopped", ckpt_path=tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert all(direct[name].equal(resumed[name]) for name in direct)


def test_validation_comes_first(tmp_path):
    send = Send(4, signal.SIGTERM)
    with pytest.raises(SystemExit):
        trainer_of(tmp_path, send).fit(Classifier(), image_loader(), image_loader())
    assert send.called == ["batch"] * 4 + ["validation"]
    assert saved(tmp_path)["global_step"] == 4


def test_signal_within_the_validation(tmp_path):
    send = Send(4, signal.SIGTERM, hook="on_validation_batch_start")
    with pytest.raises(SystemExit):
        trainer_of(tmp_path, send).fit(Classifier(), image_loader(), image_loader())
    assert send.called == ["batch"] * 4 + ["validation"]


def test_signal_in_the_last_iteration_lets_the_run_end(tmp_path):
    send = Send(5, signal.SIGTERM)
    trainer_of(tmp_path, send, max_steps=5).fit(Classifier(), image_loader())
    assert send.called == ["batch"] * 5 + ["end"]
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_second_interrupt_takes_effect_at_once(tmp_path):
    send = Send(3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:  # as Lightning ends on a KeyboardInterrupt
        trainer_of(tmp_path, send).fit(Classifier(), image_loader())
    assert stopped.value.code == 1
    assert send.called == ["batch"] * 2
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_signal_before_training(tmp_path):
    """Lightning's own handler was there first."""

    class Early(StopOnSignal):
        def on_train_start(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGTERM)
            super().on_train_start(trainer, pl_module)

    send = Send(0)
    trainer = pl.Trainer(callbacks=[send, Early()], default_root_dir=tmp_path, max_epochs=2, **QUIET)
    with pytest.raises(SystemExit):
        trainer.fit(Classifier(), image_loader())
    assert send.called == ["batch"]
    assert saved(tmp_path)["global_step"] == 1


def test_what_others_do_in_the_iteration_is_saved(tmp_path):
    """Also what comes later in the list, and a checkpoint of the same iteration."""

    class Count(Callback):
        count, state_key = 0, "count"

        def on_train_batch_end(self, *_):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

    every = RunCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [StopOnSignal(tmp_path / "mine.ckpt"), Send(2, signal.SIGTERM), Count(), every]
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=tmp_path, max_epochs=2, **QUIET)
    with pytest.raises(SystemExit):
        trainer.fit(Classifier(), image_loader())
    for name in ("mine.ckpt", "step=2.ckpt"):
        assert torch.load(tmp_path / name, weights_only=True)["callbacks"]["count"] == {"count": 2}


@BOTH_NAMES
def test_modules_of_others(pl, tmp_path):
    trainer = pl.Trainer(
        callbacks=[Send(2, signal.SIGTERM), StopOnSignal()], max_epochs=1, default_root_dir=tmp_path, **QUIET
    )
    with pytest.raises(SystemExit):
        trainer.fit(make_two_player_gan(pl)(), image_loader())
    assert saved(tmp_path)["global_step"] == 4  # two optimizers, two batches


def test_requeue_signal_of_slurm(tmp_path, monkeypatch):
    """Lightning saves its checkpoint and requeues the job, after a whole iteration."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    job = {"JOB_ID": "123", "JOB_NAME": "gan", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    send = Send(3, signal.SIGUSR1)
    with pytest.raises(SystemExit) as stopped:
        trainer_of(tmp_path / "run", send).fit(Classifier(), image_loader())
    assert stopped.value.code is None
    assert send.called == ["batch"] * 3
    assert torch.load(tmp_path / "run" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 3
    assert (tmp_path / "requeued").read_text() == "requeue 123\n"
    assert not (tmp_path / "run" / "checkpoints").exists()


def two_processes(folder, what):
    return run_script(stop_two_processes, folder, what, timeout=400, check=False)


@pytest.mark.ddp
def test_all_processes_stop_at_the_same_iteration(tmp_path):
    """The second one alone gets the signal."""
    done = two_processes(tmp_path, "signal")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stopped by SIGTERM at iteration 3;") == 1
    assert [(tmp_path / f"batches_{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert saved(tmp_path)["global_step"] == 3


@pytest.mark.ddp
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_other(killed, tmp_path):
    """In one sentence and a status, in place of what gloo says."""
    done = two_processes(tmp_path, f"kill {killed}")
    who = "process 1 (SIGKILL)" if killed else "another process"
    sentence = f"{who} of this run has ended, which can't go on without it after iteration 2; go on from there"
    assert done.stderr.count(sentence) == 1, done.stderr
    assert done.returncode == (1 if killed else -signal.SIGKILL)  # of the first; both have closed their output


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [::1]:9: Connection reset by peer. GL"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:12430"), True),
        (torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
    ],
    ids=str,
)
def test_lost_connections(error, lost):
    assert is_lost_connection(error) == lost


@pytest.mark.ddp
def test_error_of_the_launching_process_ends_the_others(tmp_path):
    """They would wait for it in a collective operation, and then fail with a page each."""
    done = two_processes(tmp_path, "error")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "out of luck" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid_1").read_text()), 0)
