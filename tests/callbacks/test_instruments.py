"""AdaptiveMagnitudeLogger and BalanceLogger: right numbers, whenever a player is updated."""

import json
import math

import lightning.pytorch
import pytest
import torch
from helpers.foreign_modules import image_loader, make_two_player_gan
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks import AdaptiveMagnitudeLogger, BalanceLogger, FixedPreconditioning
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.optim import NSGDA, AdaNSGDA, layer_name
from pcgan_lightning.spectra import original_parameters


def tiny_gan(optimizer, **kwargs):
    torch.manual_seed(1)
    networks = CNNGenerator(channels=1, latent_dim=4, width=2), CNNDiscriminator(channels=1, width=2)
    return GAN(*networks, generator_optimizer=optimizer, discriminator_optimizer=optimizer, **kwargs)


class Steps(Callback):
    """Records weights and gradients around every step of every optimizer, in float64."""

    def on_train_start(self, trainer, pl_module):
        self.records = {"generator": [], "discriminator": []}
        for name, optimizer in zip(self.records, trainer.optimizers, strict=True):
            network = getattr(pl_module, name)
            optimizer.register_step_pre_hook(lambda *_, n=name, net=network: self.before(n, net))
            optimizer.register_step_post_hook(lambda *_, n=name, net=network: self.after(n, net))

    def before(self, name, network):
        named = {n: p for n, p in original_parameters(network).items() if p.grad is not None}
        self.weights = {n: p.detach().double().clone() for n, p in named.items()}
        self.gradients = {n: p.grad.double().clone() for n, p in named.items()}

    def after(self, name, network):
        steps = {n: p.detach().double() - self.weights[n] for n, p in original_parameters(network).items()}
        self.records[name].append((self.weights, self.gradients, steps))


def joint(tensors):
    return sum((t**2).sum() for t in tensors).sqrt().item()


def test_balance_by_hand(tmp_path, fit):
    """The last of three updates of an iteration; in the first and in every third iteration."""
    steps, balance = Steps(), BalanceLogger(every_n_steps=3)
    rate = 0.05
    gan = tiny_gan(lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9), discriminator_steps=3)
    trainer = fit(gan, [steps, balance, FixedPreconditioning(3)])
    assert balance.series["iteration"] == [1, 3, 6]
    ratio = [0.0, 0.0, 0.0]
    for player, updates in (("generator", 1), ("discriminator", 3)):
        for k, iteration in enumerate(balance.series["iteration"]):
            weights, gradients, moved = steps.records[player][updates * iteration - 1]
            size = joint(weights.values())
            entry = {key: values[k] for key, values in balance.series["players"][player].items()}
            assert entry["relative_speed"] == pytest.approx(rate * joint(gradients.values()) / size, rel=1e-5)
            assert entry["relative_step"] == pytest.approx(joint(moved.values()) / size, rel=1e-3)
            assert entry["gradient"] == pytest.approx(sum(g.norm().item() for g in gradients.values()), rel=1e-5)
            ratio[k] += entry["gradient"] / balance.series["players"][player]["gradient"][0]
    assert balance.series["gradient_ratio"] == pytest.approx(ratio)
    assert ratio[0] == 2.0
    assert (tmp_path / "balance.png").is_file()
    hooks = [hook for o in trainer.optimizers for hook in o._optimizer_step_pre_hooks.values()]
    assert len(hooks) == 2, "hooks are taken off, but for those of this test"


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.9)),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9)),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.1), amsgrad=True),
    ],
)
def test_magnitudes_are_lengths_of_adams_steps(make, fit):
    """||A|| of a layer is its step's length over the learning rate."""
    steps, magnitudes = Steps(), AdaptiveMagnitudeLogger(every_n_steps=3)
    fit(tiny_gan(make), [steps, magnitudes, FixedPreconditioning(3)])
    for player, series in magnitudes.series["players"].items():
        assert series["iteration"] == [1, 3, 6]
        for k, iteration in enumerate(series["iteration"]):
            moved = steps.records[player][iteration - 1][2]
            for layer, values in series["layers"].items():
                own = joint(step for name, step in moved.items() if layer_name(name) == layer)
                # Weights of size 1 in float32: their differences are right to 1e-7, over the learning rate to 1e-5.
                assert values[k] == pytest.approx(own / 0.01, rel=1e-3, abs=2e-5)


def test_means_are_scales_for_nsgda(tmp_path, fit):
    make = lambda p: AdaNSGDA(p, lr=0.01, betas=(0.0, 0.9), scope="layer", oracle="paper")  # noqa: E731
    magnitudes = AdaptiveMagnitudeLogger(every_n_steps=2)
    gan = tiny_gan(make)
    fit(gan, [magnitudes])
    for player, network in (("generator", gan.generator), ("discriminator", gan.discriminator)):
        path = tmp_path / "layer_scales" / f"{player}.json"
        means = json.loads(path.read_text())
        for layer, values in magnitudes.series["players"][player]["layers"].items():
            assert means[layer] == pytest.approx(sum(values) / 4)
        NSGDA(network.named_parameters(), scope="layer", layer_scales=path)  # they fit
        assert (tmp_path / "magnitudes" / f"{player}.png").is_file()


class Uneven(make_two_player_gan(lightning.pytorch)):
    """The generator steps in every third batch only, and its first layer's gradient comes late; steps by closure."""

    def training_step(self, batch, batch_idx):
        iteration = self.trainer.fit_loop.total_batch_idx + 1
        optimizer_g, optimizer_d = self.optimizers()
        self.generator[0].requires_grad_(iteration > 3)
        z = torch.randn(len(batch[0]), 6)
        if iteration % 3 == 0:
            optimizer_g.step(closure=lambda: self.descend(optimizer_g, self.discriminator(self.generator(z)).mean()))
        scores = self.discriminator(batch[0]).mean() - self.discriminator(self.generator(z).detach()).mean()
        optimizer_d.step(closure=lambda: self.descend(optimizer_d, scores))

    def descend(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        return loss

    def configure_optimizers(self):
        last = torch.nn.Linear(64, 64)
        self.generator = torch.nn.Sequential(*self.generator[:2], last, *self.generator[2:])
        return super().configure_optimizers()


def test_players_that_step_at_different_times(tmp_path, fit):
    """A player that does not step when it should be looked at is looked at in its next step."""
    magnitudes, balance = AdaptiveMagnitudeLogger(every_n_steps=2), BalanceLogger(every_n_steps=2)
    fit(Uneven(), [magnitudes, balance], image_loader(), max_epochs=2, max_steps=-1)  # 4 batches each
    for callback in (magnitudes, balance):
        iterations = {player: entry["iteration"] for player, entry in callback.series["players"].items()}
        assert iterations == {"discriminator": [1, 2, 4, 6, 8], "generator": [3, 6]}
    assert balance.series["iteration"] == [3, 4, 6, 8]
    assert balance.series["gradient_ratio"][-1] > 0
    layers = magnitudes.series["players"]["generator"]["layers"]
    assert [math.isnan(v) for v in layers["0"]] == [True, False]
    assert not any(math.isnan(v) for v in layers["2"])
    scales = json.loads((tmp_path / "layer_scales" / "generator.json").read_text())
    assert scales == {"0": layers["0"][1], "2": pytest.approx(sum(layers["2"]) / 2)}


def test_optimizers_that_cannot_be_looked_at(fit):
    sgd, adam = (lambda p: torch.optim.SGD(p, lr=0.1)), (lambda p: torch.optim.Adam(p))
    message = "AdaptiveMagnitudeLogger needs Adam, AdaNSGDA or AdaDir, got SGD for generator"
    with pytest.raises(TypeError, match=message):
        fit(tiny_gan(sgd), [AdaptiveMagnitudeLogger()])
    gan = tiny_gan(adam)
    gan.spare = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="argument `targets` must be networks that an optimizer trains, got 'spare'"):
        fit(gan, [BalanceLogger(targets=["spare"])])
