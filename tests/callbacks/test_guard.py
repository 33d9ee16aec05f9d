"""NonFiniteGuard: the first tensor that is not finite is named, no bad file is written, and training goes back."""

import copy
import math
from pathlib import Path

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from helpers import guarded_runs, run_script
from helpers.foreign_modules import make_classifier
from helpers.guarded_runs import CONVOLUTION, Injection, fit, gan
from helpers.short_fits import assert_same
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from pcgan_lightning.callbacks import (
    AdaptivePreconditioning,
    FixedPreconditioning,
    NonFiniteError,
    NonFiniteGuard,
    RunCheckpoint,
)
from pcgan_lightning.callbacks.running.ledger import extremes
from pcgan_lightning.optim import Grafted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_extremes_are_finite_just_for_finite_tensors(dtype, bad):
    """Large numbers whose sum, squares or difference overflow are finite ones."""
    largest = torch.finfo(dtype).max
    tensors = [torch.full((40, 30), largest, dtype=dtype) for _ in range(3)]
    tensors[0][3] = -largest
    tensors[1][17, 5] = bad
    assert extremes(tensors).isfinite().all(dim=0).tolist() == [True, False, True]
    assert extremes([torch.tensor(bad, dtype=dtype)]).isfinite().all().item() is False


def files(folder):
    """Return the content of all checkpoints by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*.ckpt"))}


NAMES = {
    "loss": "loss 2 of iteration 7",
    "gradient": f"gradient of {CONVOLUTION}.weight at iteration 7",
    "weight": f"weight {CONVOLUTION}.weight at iteration 7",
    "average": "weight averaged_generator.module.to_image.bias by iteration 8",
    "buffer": "buffer generator.convolutions.4.running_var at iteration 7",
    "singular value": f"singular value of layer {CONVOLUTION} at iteration 7",
}


class Snapshot(Callback):
    """The files that are there when the bad number is."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            self.files = files(Path(trainer.default_root_dir))


@pytest.mark.parametrize("kind", NAMES)
def test_first_tensor_is_named_and_files_stay(tmp_path, kind):
    """Good files are untouched byte by byte, no other is written, and the run does not take itself for finished."""
    injection, snapshot = Injection(kind), Snapshot()
    saving = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}", save_on_exception=True)
    # The others are read before iteration 9 is saved, the average in iteration 8.
    callbacks = [
        injection,
        NonFiniteGuard(every_n_steps=8 if kind == "average" else 50),
        snapshot,
        FixedPreconditioning(3),
        saving,
    ]
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, gan(), callbacks)
    message = str(caught.value)
    assert message.startswith(f"{NAMES[kind]} is not finite, training stops: the last good checkpoint is {tmp_path}")
    assert "step=6.ckpt, continue from it with smaller steps or with" in message
    assert "--" not in message  # nobody has a command line here
    assert caught.value.checkpoint == tmp_path / "checkpoints" / "step=6.ckpt"
    assert "\n" not in message
    assert files(tmp_path) == snapshot.files
    assert list(snapshot.files) == ["step=3.ckpt", "step=6.ckpt"]
    assert not injection.ended


@pytest.mark.parametrize("spike", [1e19, 1e20, 1e38])
def test_no_checkpoint_holds_an_infinite_state(tmp_path, spike):
    """A finite gradient, whose square overflows in Adam's second moment from 6e19 on, by a tenth of itself."""
    callbacks = [Injection("gradient", bad=spike), NonFiniteGuard()]
    callbacks.append(RunCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}"))
    if spike < 5e19:
        assert fit(tmp_path, gan(), callbacks, max_steps=9).global_step == 9
    else:
        expected = f"^saved state of {CONVOLUTION}.weight: exp_avg_sq at iteration 9 is not finite.*step=6.ckpt"
        with pytest.raises(NonFiniteError, match=expected):
            fit(tmp_path, gan(), callbacks, max_steps=9)
    contents = [torch.load(p, weights_only=True) for p in (tmp_path / "checkpoints").iterdir()]
    assert len(contents) == (3 if spike < 5e19 else 2)
    for state in (s for c in contents for optimizer in c["optimizer_states"] for s in optimizer["state"].values()):
        assert all(value.isfinite().all() for value in state.values())


def test_optimizers_within_an_optimizer_are_looked_at(tmp_path):
    """Both of two grafted Adams overflow; the first of them is named."""
    adam = lambda p: torch.optim.Adam(p, lr=1e-3)  # noqa: E731
    grafted = lambda p: Grafted(p, adam, adam)  # noqa: E731
    callbacks = [Injection("gradient", bad=1e25), NonFiniteGuard()]
    callbacks.append(RunCheckpoint(every_n_train_steps=9, filename="{step}"))
    with pytest.raises(NonFiniteError, match=f"^saved magnitude's state of {CONVOLUTION}.weight: exp_avg_sq at"):
        fit(tmp_path, gan(optimizer=grafted), callbacks, max_steps=9)


def test_large_numbers_are_finite(tmp_path):
    """A weight of 3e38 and one of -3e38, in a layer that nothing reads from, are no reason to stop."""
    module = gan()
    module.unused = nn.Parameter(torch.tensor([3e38, -3e38, 3e38]))
    assert fit(tmp_path, module, [NonFiniteGuard(every_n_steps=1)], max_steps=2).global_step == 2


def test_losses_are_numbered_within_an_iteration(tmp_path):
    """Three critic updates and one of the generator: the second loss of iteration 7 is not the run's second."""
    with pytest.raises(NonFiniteError, match=r"^loss 2 of iteration 7 is"):
        fit(tmp_path, gan(discriminator_steps=3), [Injection("loss"), NonFiniteGuard()], max_steps=8)


def test_the_end_of_a_run_is_read(tmp_path):
    """Fewer iterations than the interval, and no checkpoint."""
    injection = Injection("gradient")
    with pytest.raises(NonFiniteError, match=f"^{NAMES['gradient']}.*no checkpoint was written yet, begin again"):
        fit(tmp_path, gan(), [injection, NonFiniteGuard(every_n_steps=1000)], max_steps=7)
    assert not injection.ended


def test_read_before_others_measure(tmp_path):
    """AdaptivePreconditioning would refuse the weights in iteration 8, with an error of its own."""
    callbacks = [Injection("weight"), NonFiniteGuard(), AdaptivePreconditioning(every_n_steps=4)]
    with pytest.raises(NonFiniteError, match=NAMES["weight"]):
        fit(tmp_path, gan(), callbacks, max_steps=9)


def test_checkpoints_of_weights_alone_are_guarded(tmp_path):
    saving = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1, filename="{step}", save_weights_only=True)
    with pytest.raises(NonFiniteError, match=NAMES["loss"]):
        fit(tmp_path, gan(), [Injection("loss"), NonFiniteGuard(), saving])
    assert list(files(tmp_path)) == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]


@pytest.mark.parametrize(
    ("pl", "bad"), [(pytorch_lightning, "loss"), (lightning.pytorch, "gradient"), (lightning.pytorch, "weight")]
)
def test_automatic_optimization(tmp_path, pl, bad):
    """A classifier of someone else; its step in iteration 3 is the first that goes wrong."""

    class Diverging(make_classifier(pl)):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.global_step == 2 and bad == "gradient":
                self.head.bias.register_hook(lambda g: g.index_fill(0, torch.tensor([1]), math.inf))
            if self.global_step == 2 and bad == "weight":
                self.trainer.optimizers[0].param_groups[0]["lr"] = math.inf
            return loss * math.nan if self.global_step == 2 and bad == "loss" else loss

    name = {"loss": "loss 1 of", "gradient": "gradient of head.bias at", "weight": "weight backbone.0.weight at"}[bad]
    with pytest.raises(NonFiniteError, match=f"^{name} iteration 3 is not finite"):
        fit(tmp_path, Diverging(), [NonFiniteGuard()], pl=pl, max_steps=4)


def test_a_loss_scale_may_make_gradients_infinite(tmp_path):
    """Its step is left out, and the scale halved; weights are still looked at."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    plugin = lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    module = make_classifier(lightning.pytorch)()
    trainer = fit(tmp_path, module, [NonFiniteGuard(every_n_steps=1)], plugins=[plugin], max_steps=3)
    assert trainer.global_step == 3
    assert scaler.get_scale() < 2.0**127


class Series(Callback):
    """Every iteration's number, as a logger would have it, and the state right after the guard has restored."""

    def __init__(self):
        self.iterations, self.state = [], None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.iterations.append(trainer.global_step)
        if trainer.global_step == 8:
            self.state = copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "average"])
def test_restore(tmp_path, caplog, kind):
    """All of the state is that of the last checkpoint, at iteration 6; data and count go on to the end."""
    series, guard = Series(), NonFiniteGuard("restore", every_n_steps=8)
    saving = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}")
    schedulers = {f"{p}_scheduler": lambda o: ExponentialLR(o, 0.9) for p in ("generator", "discriminator")}
    adaptive = AdaptivePreconditioning(every_n_steps=2, thresholds=(1.0, 1.5, 2.0, 3.0))
    trainer = fit(tmp_path, gan(**schedulers), [Injection(kind), guard, series, adaptive, saving])
    saved = torch.load(tmp_path / "checkpoints" / "step=6.ckpt", weights_only=True)
    assert_same(series.state["state_dict"], saved["state_dict"])
    assert_same(series.state["optimizer_states"], saved["optimizer_states"])
    assert_same(series.state["lr_schedulers"], saved["lr_schedulers"])
    assert saved["lr_schedulers"][0]["last_epoch"] == 6
    assert_same(series.state["callbacks"][adaptive.state_key], saved["callbacks"][adaptive.state_key])
    assert series.iterations == list(range(1, 13))
    assert trainer.global_step == 12
    assert guard.restored == 1
    warned = [r.getMessage() for r in caplog.records if r.name.startswith("pcgan_lightning")]
    assert [line.partition(" is not finite: back to ")[0] for line in warned] == [NAMES[kind]]
    last = torch.load(tmp_path / "checkpoints" / "step=12.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in last["state_dict"].values())
    assert last["lr_schedulers"][0]["last_epoch"] == 10
    assert last["callbacks"][guard.state_key] == {"restored": 1}


def test_restore_within_saving(tmp_path):
    """The file of iteration 9 holds what was restored, optimizers included, not what was about to be saved."""
    saving = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}")
    fit(tmp_path, gan(), [Injection("gradient"), NonFiniteGuard("restore"), saving], max_steps=9)
    saved, former = (torch.load(tmp_path / "checkpoints" / f"step={n}.ckpt", weights_only=True) for n in (9, 6))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(saved[key], former[key])
    assert saved["global_step"] == 9


def test_restoring_has_an_end(tmp_path):
    """A tensor that is spoiled again and again: so many times back, then it stops and says so."""
    saving = ModelCheckpoint(every_n_train_steps=3, filename="{step}")
    guard = NonFiniteGuard("restore", every_n_steps=1, restores=2)
    with pytest.raises(NonFiniteError, match="iteration 9 is not finite, training stops after 2 restores: the last"):
        fit(tmp_path, gan(), [Injection("loss", range(7, 100)), guard, saving])
    assert guard.restored == 2
    with pytest.raises(NonFiniteError, match="no checkpoint was written yet"):
        fit(tmp_path / "none", gan(), [Injection("loss"), NonFiniteGuard("restore")])


def test_restores_the_checkpoint_it_started_from(tmp_path):
    """A resumed run that has written none yet; restores of its earlier part count."""
    saving = ModelCheckpoint(every_n_train_steps=4, filename="{step}")
    fit(tmp_path, gan(), [Injection("loss", (5,)), NonFiniteGuard("restore"), saving], max_steps=8)
    path = tmp_path / "checkpoints" / "step=8.ckpt"
    guard = NonFiniteGuard("restore", every_n_steps=1)
    fit(tmp_path / "resumed", gan(), [Injection("loss", (9,)), guard], ckpt_path=path, max_steps=10)
    assert guard.restored == 2


def test_a_clean_run_is_the_same_with_and_without(tmp_path):
    states = []
    for guards in ([], [NonFiniteGuard("restore", every_n_steps=2)]):
        callbacks = [*guards, AdaptivePreconditioning(every_n_steps=3)]
        trainer = fit(tmp_path, gan(discriminator_steps=2), callbacks, max_steps=7)
        states.append(trainer._checkpoint_connector.dump_checkpoint())
    for key in ("state_dict", "optimizer_states", "random_states"):
        assert_same(states[0][key], states[1][key])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What several processes left behind; started from a fresh one, since autograd is not to be forked in use."""
    folder = tmp_path_factory.mktemp("processes")
    run_script(guarded_runs, folder)
    return folder


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["loss", "buffer"])
def test_all_processes_stop_at_once(two_processes, kind):
    """Only process 1 has the bad number; both stop in the same iteration, with the same message."""
    folder = two_processes / kind
    said = [(folder / f"process_{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith(f"8 {NAMES[kind]} (process 1) is not finite")
    assert list(files(folder)) == ["step=3.ckpt", "step=6.ckpt"]


@pytest.mark.ddp
def test_all_processes_restore(two_processes):
    """The whole run goes on, and both processes hold the same weights at its end."""
    folder = two_processes / "restore"
    states = [torch.load(folder / f"weights_{rank}", weights_only=True) for rank in (0, 1)]
    # Statistics of batch normalisation are each process's own.
    assert all(states[0][n].equal(states[1][n]) for n in states[0] if "running" not in n)
    saved, former = (torch.load(folder / "checkpoints" / f"step={n}.ckpt", weights_only=True) for n in (9, 6))
    assert saved["optimizer_states"][0]["state"][0]["step"] == former["optimizer_states"][0]["state"][0]["step"] + 1


def test_wrong_arguments():
    for name, value in (("action", "warn"), ("every_n_steps", 0), ("restores", 0)):
        with pytest.raises(ValueError, match=f"argument `{name}` must"):
            NonFiniteGuard(**{name: value})
