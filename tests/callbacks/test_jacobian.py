"""JacobianSpectrumLogger: right eigenvalues of the running game, at a bounded cost."""

import csv
import math

import lightning.pytorch
import numpy as np
import pytest
import torch
from helpers.foreign_modules import image_loader, make_two_player_gan
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import softplus

from pcgan_lightning.callbacks import Acceleration, FixedPreconditioning, JacobianSpectrumLogger
from pcgan_lightning.data import MixtureOfGaussians
from pcgan_lightning.games import JARE, ConOpt, Game, Linearization, SimGD
from pcgan_lightning.losses import NonSaturatingLoss
from pcgan_lightning.modules import GAN, SimultaneousGAN
from pcgan_lightning.networks import (
    CNNDiscriminator,
    CNNGenerator,
    MLPDiscriminator,
    MLPGenerator,
    SynchronizedBatchNorm,
)


def points():
    return MixtureOfGaussians(batch_size=16, seed=0)


def tiny_game(method=None, hidden_layers=1, width=4):
    """76 parameters."""
    torch.manual_seed(1)
    networks = MLPGenerator((2,), 3, width, hidden_layers), MLPDiscriminator((2,), width, hidden_layers)
    return SimultaneousGAN(*networks, NonSaturatingLoss(), method)


class Dense(Callback):
    """The same by central differences of hand-made gradients, in float64."""

    def __init__(self, method):
        self.method, self.found = method, {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step not in (1, 3):
            return
        state = {name: value.clone() for name, value in module.state_dict().items()}
        module.double()
        parameters = [*module.generator.parameters()], [*module.discriminator.parameters()]
        every = [*parameters[0], *parameters[1]]
        latents, real = module.fixed_latents(8).double(), batch[:8].double()
        start, h = torch.cat([p.detach().flatten() for p in every]), 1e-5

        def direction(x):
            for p, part in zip(every, x.split([p.numel() for p in every]), strict=True):
                p.data = part.view_as(p).clone()
            fake = module.discriminator(module.generator(latents))
            losses = softplus(-fake).mean(), softplus(-module.discriminator(real)).mean() + softplus(fake).mean()
            return -torch.cat([g.flatten() for gs in self.method(*losses, *parameters) for g in gs])

        steps = h * torch.eye(len(start), dtype=torch.float64)
        columns = [(direction(start + step) - direction(start - step)) / (2 * h) for step in steps]
        self.found[trainer.global_step] = np.linalg.eigvals(torch.stack(columns, 1).numpy())
        module.float()
        module.load_state_dict(state)


def assert_same(found, expected, tolerance):
    """Each eigenvalue has a partner; those of a defective or ill-conditioned matrix move more than its entries."""
    found, expected = np.array([complex(*pair) for pair in found]), list(expected)
    for value in sorted(found, key=abs, reverse=True):
        nearest = min(expected, key=lambda other: abs(other - value))
        assert abs(nearest - value) < tolerance * max(abs(found))
        expected.remove(nearest)


@pytest.mark.parametrize("method", [SimGD(), ConOpt(0.5), JARE(2.0, "generator")], ids=repr)
def test_eigenvalues_of_a_small_game(tmp_path, fit, method):
    """All of them, of the dynamics with the regulariser."""
    dense, callback = Dense(method), JacobianSpectrumLogger(every_n_steps=3, samples=8)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(tiny_game(method), [callback, dense], points(), max_steps=3, logger=logger)
    assert callback.series["iteration"] == [1, 3]
    for iteration, pairs, zeta in zip(*(callback.series[k] for k in ("iteration", "eigenvalues", "zeta")), strict=True):
        # A in float32 is right to about 1e-6, an eigenvalue with an eigenvector that is nearly shared to its root.
        assert_same(pairs, dense.found[iteration], 1e-3)
        largest = max(math.hypot(*pair) for pair in pairs)
        phases = [abs(b / a) for a, b in pairs if b and math.hypot(a, b) > 1.2e-5 * largest]  # not 0 but for rounding
        assert zeta == max(phases, default=0.0)
    assert trainer.global_step == 3
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["jacobian/zeta"]]
    assert [float(row["jacobian/zeta"]) for row in rows] == pytest.approx(callback.series["zeta"])
    first = callback.series["eigenvalues"][0][0]
    assert (float(rows[0]["jacobian/eigenvalue_1/real"]), float(rows[0]["jacobian/eigenvalue_1/imaginary"])) == first
    assert (tmp_path / "jacobian.png").is_file()


@pytest.mark.slow
def test_leading_eigenvalues_of_a_larger_game(fit):
    """Those that Arnoldi finds are among all."""
    every = JacobianSpectrumLogger(every_n_steps=6, max_products=1000)
    leading = JacobianSpectrumLogger(every_n_steps=6, count=3, max_products=150)
    for callback in (every, leading):
        module = tiny_game(hidden_layers=2, width=12)
        fit(module, [callback], points(), max_steps=6)
    for whole, some in zip(every.series["eigenvalues"], leading.series["eigenvalues"], strict=True):
        assert len(whole) == sum(p.numel() for p in module.parameters()) > 150
        assert 3 <= len(some) <= 6
        largest = sorted((math.hypot(*pair) for pair in whole), reverse=True)
        assert math.hypot(*some[0]) == pytest.approx(largest[0], rel=5e-3)
        for pair in some:
            assert min(math.dist(pair, other) for other in whole) < 5e-3 * largest[0]
    assert all(a <= b for a, b in zip(leading.series["tau"], every.series["tau"], strict=True))


def test_products_are_bounded(fit, monkeypatch):
    products, original = [], Linearization.jvp
    monkeypatch.setattr(Linearization, "jvp", lambda self, vector: products.append(1) or original(self, vector))
    callback = JacobianSpectrumLogger(every_n_steps=100, max_products=45, tolerance=1e-12)
    fit(tiny_game(width=12), [callback], points(), max_steps=1)
    assert 40 < len(products) <= 2 * 45
    assert len(callback.series["zeta"]) == 1


def gan():
    torch.manual_seed(1)
    networks = CNNGenerator(channels=1, latent_dim=4, width=1), CNNDiscriminator(channels=1, width=1)
    return GAN(*networks, NonSaturatingLoss(), ema_decay=0.5)


@pytest.mark.slow
def test_batch_normalisation_has_no_third_derivative(fit):
    networks = gan().generator, gan().discriminator
    module = SimultaneousGAN(*networks, NonSaturatingLoss(), JARE(0.1))
    arguments = {"every_n_steps": 1, "count": 1, "samples": 2, "max_products": 40}
    with pytest.raises(ValueError, match="argument `regularized` must be False for networks without third"):
        fit(module, [JacobianSpectrumLogger(**arguments)], max_steps=1)
    callback = JacobianSpectrumLogger(**arguments, regularized=False)
    fit(module, [callback], max_steps=1)
    assert callback.series["eigenvalues"][0]


@pytest.mark.slow
def test_statistics_of_batches_are_not_disturbed(fit):
    """Batch normalisation in the generator, PC-layers on the discriminator; nor is the measurement by compilation."""
    watched, alone = gan(), gan()
    make = lambda: JacobianSpectrumLogger(every_n_steps=9, count=1, samples=2, max_products=40)  # noqa: E731
    callback, compiled = make(), make()
    fit(watched, [callback, FixedPreconditioning(3)], max_steps=1)
    fit(alone, [FixedPreconditioning(3)], max_steps=1)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    fit(gan(), [compiled, Acceleration(backend="aot_eager"), FixedPreconditioning(3)], max_steps=1)
    assert compiled.series["eigenvalues"][0][0] == pytest.approx(callback.series["eigenvalues"][0][0], rel=0.05)


def test_a_game_that_is_not_finite(fit):
    """A diverged run is measured as NaN rather than ended by its monitor."""
    module, callback = tiny_game(), JacobianSpectrumLogger(every_n_steps=2)
    with torch.no_grad():
        next(module.generator.parameters()).fill_(math.inf)
    fit(module, [callback], points(), max_steps=2)
    assert callback.series["iteration"] == [1, 2]
    assert all(math.isnan(value) for value in callback.series["zeta"] + callback.series["tau"])


def test_losses_of_others(fit):
    """Their eigenvalues are those of the dense Jacobian, on the last batch; the module's own losses do not count."""
    latents, batches = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), []

    def losses(module, batch):
        batches.append(batch)
        real, fake = module.discriminator(batch[:4]), module.discriminator(module.generator(latents))
        return softplus(-fake).mean(), (softplus(-real) + softplus(fake)).mean()

    module = tiny_game()
    callback = JacobianSpectrumLogger(2, count=2, max_products=40, losses=losses)
    fit(module, [callback], points(), max_steps=4)
    players = [*module.generator.parameters()], [*module.discriminator.parameters()]
    whole = torch.linalg.eigvals(Game(lambda: losses(module, batches[-1]), *players).jacobian().double())
    for pair in callback.series["eigenvalues"][-1]:
        assert (whole - complex(*pair)).abs().min() < 5e-3 * whole.abs().max()


@pytest.mark.parametrize("layer", [torch.nn.SyncBatchNorm, SynchronizedBatchNorm])
def test_layers_that_wait_for_other_processes_are_refused(fit, layer):
    module, callback = gan(), JacobianSpectrumLogger()
    module.generator.extra = layer(2)
    trainer = fit(gan(), max_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer), "world_size", 2)
        with pytest.raises(ValueError, match="argument `sync_batchnorm` of the trainer must be false for Jacobian"):
            callback.on_train_start(trainer, module)


def test_a_module_must_tell_its_losses(fit):
    with pytest.raises(TypeError, match="JacobianSpectrumLogger needs the argument `losses`, or a module with"):
        fit(make_two_player_gan(lightning.pytorch)(), [JacobianSpectrumLogger()], image_loader())
