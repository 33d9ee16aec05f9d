"""FPC and APC on LightningModules of others, and the rule by which APC chooses."""

import copy

import lightning.pytorch
import pytest
import torch
from helpers import short_fits
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_classifier, make_two_player_gan
from helpers.short_fits import fit as small_fit
from helpers.short_fits import small_game
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning, SpectrumLogger, SVDParametrization
from pcgan_lightning.losses import DOptimalPenalty
from pcgan_lightning.modules import GAN
from pcgan_lightning.spectra import (
    PUBLISHED_POLYNOMIALS,
    Polynomial,
    modified_condition_number,
    power_iteration,
    precondition,
    preconditioners,
    svd_factors,
    weight_layers,
)


def fit(pl, module, tmp_path, callbacks=(), **options):
    options = {"max_epochs": 2} | options
    return short_fits.fit(tmp_path, module, -1, *callbacks, data=image_loader(), pl=pl, **options)


CASES = {
    "two players": (make_two_player_gan, "discriminator"),
    "classifier": (make_classifier, "backbone"),
    "function": (make_classifier, lambda module: module.backbone),
}


@BOTH_NAMES
@pytest.mark.parametrize("case", CASES)
def test_nothing_changes_but_the_effective_weights(tmp_path, pl, case):
    """A run with the callback equals a run of the same module on which `precondition` was called by hand."""
    make, target = CASES[case]
    by_hand = make(pl)()
    module = copy.deepcopy(by_hand)
    own = dict(module.named_parameters())
    network = target(module) if callable(target) else module.get_submodule(target)
    effective_before = {n: m.weight for n, m in network.named_modules() if hasattr(m, "weight")}

    # Thresholds that no condition number reaches: every layer has degree 5 from the first measurement on.
    callback = AdaptivePreconditioning(thresholds=(1e-3,), degrees=(1, 5), every_n_steps=3, target=target)
    trainer = fit(pl, module, tmp_path, [callback])

    owned = [p for o in trainer.optimizers for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in owned} == {id(p) for p in own.values()} == {id(p) for p in module.parameters()}
    for name, weight in effective_before.items():
        assert not torch.equal(network.get_submodule(name).weight, weight)
    touched = {id(m) for m in module.modules() if is_parametrized(m)}
    assert touched == {id(m) for n, m in network.named_modules() if n in effective_before}

    precondition(target(by_hand) if callable(target) else by_hand.get_submodule(target), degree=5)
    fit(pl, by_hand, tmp_path)
    for (name, a), (_, b) in zip(module.state_dict().items(), by_hand.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@BOTH_NAMES
def test_fixed_preconditioning_of_foreign_gan_resumes(tmp_path, pl):
    module = make_two_player_gan(pl)()
    start = copy.deepcopy(module)
    whole = fit(pl, module, tmp_path, [FixedPreconditioning(degree=3)], max_epochs=4)
    assert whole.global_step == 4 * 4 * 2  # Lightning counts both players in modules of others
    half = copy.deepcopy(start)
    fit(pl, half, tmp_path, [FixedPreconditioning(degree=3)], max_epochs=2).save_checkpoint(tmp_path / "x.ckpt")
    resumed = copy.deepcopy(start)
    fit(pl, resumed, tmp_path, [FixedPreconditioning(degree=3)], max_epochs=4, ckpt_path=tmp_path / "x.ckpt")
    for name, value in module.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("mean", "degree"),
    [(1.0, 1), (5.0, 1), (5.1, 3), (10.0, 3), (15.0, 5), (20.0, 5), (30.0, 7), (30.001, 9), (float("inf"), 9)],
)
def test_rule_of_the_authors(mean, degree):
    assert AdaptivePreconditioning().choose(mean) == PUBLISHED_POLYNOMIALS[degree]


class Conditions(nn.Module):
    """A 2x2 linear layer whose condition number is set from outside."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Scripted(lightning.pytorch.LightningModule):
    """Shows a layer of condition `conditions[i]` at iteration i."""

    def __init__(self, conditions):
        super().__init__()
        self.discriminator = Conditions()
        self.conditions = conditions
        self.automatic_optimization = False

    def set_condition(self, condition):
        with torch.no_grad():
            layer = self.discriminator.layer
            weight = layer.parametrizations.weight.original if hasattr(layer, "parametrizations") else layer.weight
            weight.copy_(torch.diag(torch.tensor([1.0, 1.0 / condition])))
        power_iteration(self.discriminator, 20)

    def on_fit_start(self):
        self.set_condition(self.conditions[0])

    def training_step(self, batch, batch_idx):
        self.set_condition(self.conditions[1 + self.trainer.fit_loop.total_batch_idx])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_degree_follows_the_mean_of_the_history(tmp_path):
    conditions = [2.0, 99.0, 12.0, 99.0, 40.0, 99.0, 2.0, 99.0, 2.0]
    degrees, histories = [], []

    class Watch(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            degrees.append(preconditioners(pl_module.discriminator)["layer"].polynomial.degree)
            histories.append(list(apc.measurements["layer"]))

    apc = AdaptivePreconditioning(every_n_steps=2, history=3, layers="all")
    fit(lightning.pytorch, Scripted(conditions), tmp_path, [apc, Watch()])
    # Measured at 0, 2, 4, 6, 8: 2, 12, 40, 2, 2; means over the last three: 2, 7, 18, 18, 14.67.
    assert degrees == [1, 3, 3, 5, 5, 5, 5, 5]
    torch.testing.assert_close(histories[-1], [40.0, 2.0, 2.0], rtol=1e-6, atol=0)


def test_measures_before_the_polynomial(tmp_path):
    """Were it measured after, a strong polynomial would hide the condition that asks for it."""
    apc = AdaptivePreconditioning(every_n_steps=1, history=1, layers="all", thresholds=(1.5,), degrees=(1, 9))
    module = Scripted([3.0] * 9)  # after degree 9, a condition of 3 becomes about 1.1
    fit(lightning.pytorch, module, tmp_path, [apc])
    assert preconditioners(module.discriminator)["layer"].polynomial.degree == 9
    assert modified_condition_number(module.discriminator)["layer"] < 1.5


def test_svd_resumes_and_opens_without_the_callback(tmp_path):
    start = small_game(penalty=DOptimalPenalty(), discriminator_steps=2)

    def train(gan, iterations, **kwargs):
        return small_fit(tmp_path, gan, iterations, SVDParametrization(), **kwargs)

    whole, half, resumed = (copy.deepcopy(start) for _ in range(3))
    train(whole, 4)
    train(half, 2).save_checkpoint(tmp_path / "x.ckpt")
    train(resumed, 4, ckpt_path=tmp_path / "x.ckpt")
    assert len(svd_factors(whole.discriminator)) == len(weight_layers(whole.discriminator))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    opened = GAN.load_from_checkpoint(tmp_path / "x.ckpt")
    images = torch.randn(2, *opened.discriminator.image_shape)
    assert torch.equal(opened.discriminator(images), half.discriminator(images))


# --- APC with a goal


def test_goal_uses_the_mean_of_the_history(tmp_path):
    degrees = []

    class Watch(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            degrees.append(preconditioners(pl_module.discriminator)["layer"].polynomial.degree)

    apc = AdaptivePreconditioning(goal=5.0, hysteresis=0.0, degrees=(1, 9), every_n_steps=2, history=2, layers="all")
    fit(lightning.pytorch, Scripted([2.0, 99.0, 7.0, 99.0, 4.0, 99.0, 5.5, 99.0, 2.0]), tmp_path, [apc, Watch()])
    # Means at degree 1 over the last two of 2, 7, 4, 5.5, 2: 2, 4.5, 5.5, 4.75, 3.75.
    assert degrees == [1, 1, 1, 9, 9, 1, 1, 1]


def test_test_after_fit_keeps_degrees(tmp_path):
    module = make_two_player_gan(lightning.pytorch)()
    module.test_step = lambda batch, batch_idx: None
    apc = AdaptivePreconditioning(thresholds=(1e-3,), degrees=(1, 7))
    trainer = fit(lightning.pytorch, module, tmp_path, [apc])
    trainer.test(module, image_loader(), verbose=False)
    assert [p.polynomial.degree for p in preconditioners(module.discriminator).values()] == [7, 7, 1]


def test_polynomials_of_ones_own(tmp_path):
    module = make_two_player_gan(lightning.pytorch)()
    cubic = Polynomial((1.2, -0.2))
    fit(lightning.pytorch, module, tmp_path, [FixedPreconditioning(degree=cubic, layers=["0"], normalize_rest=False)])
    assert {n: p.polynomial for n, p in preconditioners(module.discriminator).items()} == {"0": cubic}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"thresholds": (5, 5), "degrees": (1, 3, 5)},
            r"`thresholds` must be positive and strictly increasing, got \(5, 5\)",
        ),
        ({"thresholds": (0, 5), "degrees": (1, 3, 5)}, r"`thresholds` must be positive .*got \(0, 5\)"),
        ({"thresholds": (5, float("nan")), "degrees": (1, 3, 5)}, r"`thresholds` must be"),
        ({"thresholds": (5, 10, 20)}, r"`degrees` must be one more than the 3 thresholds .* got 5"),
        ({"degrees": (1, 2, 3, 5, 7)}, r"`degree` must be odd, from 1 to 17, .*got 2"),
        ({"goal": 0.9}, r"`goal` must be at least 1, got 0.9"),
        ({"goal": float("nan")}, r"`goal` must be at least 1, got nan"),
        ({"goal": 2, "hysteresis": 1.0}, r"`hysteresis` must be in \[0, 1\), got 1.0"),
        ({"hysteresis": 0.2}, "`hysteresis` must come with a `goal`, got 0.2 alone"),
        ({"goal": 2, "thresholds": (1, 2)}, r"`thresholds` must be left out where there is a `goal`, got \(1, 2\)"),
        ({"goal": 2, "degrees": ()}, r"`degrees` must name at least one polynomial, got \(\)"),
        ({"history": 0}, r"`history` must be at least 1, got 0"),
        ({"every_n_steps": 0}, r"`every_n_steps` must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AdaptivePreconditioning(**kwargs)


def test_unknown_degree():
    with pytest.raises(ValueError, match=r"argument `degree` must be odd, from 1 to 17, or a Polynomial, got 4"):
        FixedPreconditioning(degree=4)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "critic",
            r"`target` must name a submodule of TwoPlayerGAN \(it has \['generator', 'discriminator'\]\), got 'critic'",
        ),
        ("discriminator.1", r"`target` must hold a Linear, Conv or ConvTranspose layer, got 'discriminator.1'"),
        (lambda module: None, r"`target` must name a submodule"),
    ],
)
@pytest.mark.parametrize("callback", [FixedPreconditioning, AdaptivePreconditioning])
def test_wrong_target(tmp_path, callback, target, message):
    with pytest.raises(ValueError, match=message):
        fit(lightning.pytorch, make_two_player_gan(lightning.pytorch)(), tmp_path, [callback(target=target)])


def test_both_networks_adapt(tmp_path):
    """Two callbacks of a kind in one trainer, told apart by their targets in the checkpoint as well."""
    module = make_two_player_gan(lightning.pytorch)()
    names = ("discriminator", "generator")
    callbacks = [AdaptivePreconditioning(every_n_steps=2, target=t, layers="all") for t in names]
    callbacks += [SpectrumLogger(every_n_steps=2, target=t, prefix=f"{t}/") for t in names]
    trainer = fit(lightning.pytorch, module, tmp_path, callbacks)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    states = torch.load(tmp_path / "x.ckpt", weights_only=True)["callbacks"]
    assert len(states) == 4
    for callback in callbacks:
        assert states[callback.state_key] == callback.state_dict()
    assert callbacks[0].measurements.keys() == {"0", "2", "5"} != callbacks[1].measurements.keys()
    assert (tmp_path / "generator" / "spectra" / "condition_numbers.png").exists()


class LinearGAN(make_two_player_gan(lightning.pytorch)):
    """A discriminator of linear layers, as in Lightning's example."""

    def __init__(self):
        super().__init__()
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


@pytest.mark.parametrize("callback", [FixedPreconditioning(degree=3), AdaptivePreconditioning()], ids=["FPC", "APC"])
def test_linear_discriminator_is_normalised_and_says_so(tmp_path, callback):
    module = LinearGAN()
    with pytest.warns(UserWarning, match=r"layers='convolutions' chooses .*say layers='all'"):
        fit(lightning.pytorch, module, tmp_path, [callback])
    assert {n: p.polynomial.degree for n, p in preconditioners(module.discriminator).items()} == {"1": 1, "3": 1}


def test_linear_discriminator_adapts_where_asked(tmp_path):
    module = LinearGAN()
    fit(lightning.pytorch, module, tmp_path, [AdaptivePreconditioning((1e-3,), degrees=(1, 9), layers="all")])
    assert {p.polynomial.degree for p in preconditioners(module.discriminator).values()} == {9}
