"""A resumed run has the optimizers' options that it asks for, not the checkpoint's."""

import pytest
import torch
from helpers.short_fits import History, fit, small_game
from torch.optim.lr_scheduler import ExponentialLR, SequentialLR

from pcgan_lightning.callbacks import NonFiniteGuard
from pcgan_lightning.callbacks.running.restore import restore_state


def adam(**options):
    make = lambda p: torch.optim.Adam(p, **{"lr": 1e-3, "betas": (0.0, 0.9), **options})  # noqa: E731
    return {"generator_optimizer": make, "discriminator_optimizer": make}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of iteration 2, with Adam."""
    folder = tmp_path_factory.mktemp("saved")
    fit(folder, small_game(**adam()), 2).save_checkpoint(folder / "two.ckpt")
    return folder / "two.ckpt"


def groups(trainer):
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]


def test_new_options_take_effect(saved, tmp_path):
    """And stay when a guard goes back to the checkpoint that the run was started from."""
    asked = {"lr": 1e-5, "betas": (0.5, 0.8), "eps": 1e-6, "weight_decay": 0.1}
    module = small_game(**adam(**asked))
    trainer = fit(tmp_path, module, 3, ckpt_path=saved)
    assert all({key: group[key] for key in asked} == asked for group in groups(trainer))
    assert all(state["step"] == 3 for optimizer in trainer.optimizers for state in optimizer.state.values())
    restore_state(trainer, module, saved, NonFiniteGuard())
    assert all({key: group[key] for key in asked} == asked for group in groups(trainer))


def test_what_a_callback_has_set_stays_where_the_option_is_the_same(tmp_path):
    """A rate that was halved in training is what the exact continuation goes on with."""
    trainer = fit(tmp_path, small_game(**adam()), 1)
    for group in groups(trainer):
        group["lr"] = 5e-4
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = fit(tmp_path, small_game(**adam(eps=1e-6)), 2, ckpt_path=tmp_path / "one.ckpt")
    assert all((group["lr"], group["eps"]) == (5e-4, 1e-6) for group in groups(resumed))


def test_a_scheduler_goes_on_from_the_new_rate(tmp_path):
    """Exponential decay by 0.5 at each iteration, alone and as a part of another scheduler."""
    decays = {
        "generator_scheduler": lambda o: ExponentialLR(o, 0.5),
        "discriminator_scheduler": lambda o: SequentialLR(o, [ExponentialLR(o, 0.5), ExponentialLR(o, 0.5)], [100]),
    }
    fit(tmp_path, small_game(**adam(), **decays), 2).save_checkpoint(tmp_path / "two.ckpt")
    history = History()
    trainer = fit(tmp_path, small_game(**adam(lr=0.1), **decays), 4, history, ckpt_path=tmp_path / "two.ckpt")
    assert history.rates == [pytest.approx([0.1 * 0.5**n] * 2) for n in (2, 3)]
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == [0.1]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "torch.optim.Adam, whose state no other can use, got torch.optim.SGD"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad=False, on which its state depends, got True"),
    ],
)
def test_another_optimizer_is_refused(optimizer, message, saved, tmp_path):
    with pytest.raises(ValueError, match=f"argument `generator_optimizer` must be the checkpoint's.*{message}"):
        fit(tmp_path, small_game(**adam() | {"generator_optimizer": optimizer}), 3, ckpt_path=saved)
