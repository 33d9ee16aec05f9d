"""Trainings in threads of one process, with weights equal to running them one after the other.

torch's random generator belongs to the process, so nothing here draws from it: networks are made before, latents come
from generators, batches from a seed.
"""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import lightning.pytorch as pl
import pytest
import torch

from pcgan_lightning.data import MixtureOfGaussians
from pcgan_lightning.modules import GAN
from pcgan_lightning.modules._game import GameModule
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator
from pcgan_lightning.spectra import precondition


@pytest.fixture(autouse=True)
def _frequent_switches():
    """Let threads take turns a hundred times as often as they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(interval)


def plain_loop(generator, discriminator, seed):
    """Train without Lightning."""
    game, source = GameModule(generator, discriminator), torch.Generator().manual_seed(seed)
    optimizers = [torch.optim.Adam(network.parameters(), 1e-2) for network in (generator, discriminator)]
    for _ in range(15):
        for player, optimizer in enumerate(optimizers):
            real, latents = (torch.randn(8, n, generator=source) for n in (2, game.latent_dim))
            loss = game.game_losses(real, latents)[player]  # both passes share their weights
            loss = loss + discriminator(real).mean()  # this one does not
            optimizer.zero_grad()
            loss.backward(inputs=optimizer.param_groups[0]["params"])
            optimizer.step()


# While Lightning asks for a loader, it changes torch's loader classes for all threads: one fit begins at a time.
BEGINNING = threading.Lock()


class Begun(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        BEGINNING.release()


def trainer_fit(generator, discriminator, seed):
    BEGINNING.acquire()
    trainer = pl.Trainer(
        callbacks=[Begun()],
        max_steps=15,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(GAN(generator, discriminator), datamodule=MixtureOfGaussians(batch_size=8, seed=seed))


@pytest.mark.parametrize("repetitions", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("train", [plain_loop, trainer_fit])
def test_two_trainings_at_once(train, repetitions):
    start = [
        (MLPGenerator(width=8, latent_dim=4), precondition(MLPDiscriminator(width=8), degree, "all"))
        for degree in (3, 7)
    ]
    expected = copy.deepcopy(start)
    for seed, players in enumerate(expected):
        train(*players, seed)
    for _ in range(repetitions):
        found = copy.deepcopy(start)
        with ThreadPoolExecutor(2) as pool:
            for training in [pool.submit(train, *players, seed) for seed, players in enumerate(found)]:
                training.result()
        for players, in_turn in zip(found, expected, strict=True):
            for network, other in zip(players, in_turn, strict=True):
                for (name, value), same in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
                    assert torch.equal(value, same), name
