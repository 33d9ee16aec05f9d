"""APC with a goal: each layer gets the cheapest polynomial that reaches it."""

import copy
import math
import warnings

import lightning.pytorch
import numpy as np
import pytest
import torch
from helpers import short_fits
from helpers.foreign_modules import image_loader, make_two_player_gan
from torch import nn

from pcgan_lightning.callbacks import AdaptivePreconditioning
from pcgan_lightning.spectra import as_polynomial, preconditioners


def fit(pl, module, tmp_path, callbacks=(), **options):
    options = {"max_epochs": 2} | options
    return short_fits.fit(tmp_path, module, -1, *callbacks, data=image_loader(), pl=pl, **options)


def condition(polynomial, values):
    """The modified condition number after a polynomial, by numpy."""
    after = np.sort(np.abs(sum(c * values ** (2 * t + 1) for t, c in enumerate(polynomial.coefficients))))
    return after[-1] / after[: math.ceil(len(after) / 10)].mean()


class Spectrum(lightning.pytorch.LightningModule):
    """A layer whose singular values are known."""

    def __init__(self, values):
        super().__init__()
        self.discriminator = nn.Linear(len(values), len(values), bias=False)
        self.discriminator.weight.data = torch.diag(torch.tensor(values, dtype=torch.float32))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


DEGREES = (1, 3, 5, 7, 9, 17)
SPECTRA = {f"log {s}": np.geomspace(1, s, 30) for s in (0.9, 0.4, 0.1, 0.03, 0.01)} | {
    "one small": np.array([1.0] * 19 + [0.05]),
    "linear": np.linspace(1, 0.02, 40),
}


@pytest.mark.parametrize("goal", [1.3, 2.5, 8.0])
def test_the_first_polynomial_that_reaches_the_goal(tmp_path, goal):
    """Brute force over the candidates; where none reaches it, the best."""
    for values in SPECTRA.values():
        conditions = {d: condition(as_polynomial(d), values) for d in DEGREES}
        reaching = [d for d in DEGREES if conditions[d] <= goal]
        module = Spectrum(values)
        apc = AdaptivePreconditioning(goal=goal, degrees=DEGREES, layers="all")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit(lightning.pytorch, module, tmp_path, [apc], max_epochs=1)
        (pc_layer,) = preconditioners(module.discriminator).values()
        assert pc_layer.polynomial.degree == (reaching[0] if reaching else min(DEGREES, key=conditions.__getitem__))
        assert len([w for w in said if "no polynomial reaches the goal" in str(w.message)]) == (not reaching)
        ((*after,),) = apc.outcomes["weight"][:1]
        np.testing.assert_allclose(after, list(conditions.values()), rtol=1e-4)  # of a float32 estimate of the norm


def chosen_degrees(conditions, hysteresis):
    apc = AdaptivePreconditioning(goal=2.0, degrees=(1, 3, 5), hysteresis=hysteresis)
    current, degrees = apc.polynomials[0], []
    for row in conditions:
        current = apc.choose_for_goal(row, current)
        degrees.append(current.degree)
    return degrees


def test_hysteresis_keeps_a_layer_from_flipping():
    noise = [(2.1, 1.2, 1.1), (1.9, 1.1, 1.0), (2.1, 1.2, 1.1), (1.9, 1.1, 1.0), (1.79, 1.1, 1.0), (1.9, 1.1, 1.0)]
    assert chosen_degrees(noise, 0.1) == [3, 3, 3, 3, 1, 1]
    assert chosen_degrees(noise, 0.0) == [3, 1, 3, 1, 1, 1]
    # Up at once, and past one that does not reach it; an earlier one within the margin beats one beyond the goal.
    assert chosen_degrees([(9.0, 5.0, 2.0), (1.9, 3.0, 2.1)], 0.1) == [5, 1]


def test_goal_resumes_through_a_switch(tmp_path):
    """The checkpoint lies between a measurement and the switch that it brings about with the next."""
    start = make_two_player_gan(lightning.pytorch)()

    def make():
        options = {"every_n_steps": 3, "history": 3, "layers": "all"}
        return AdaptivePreconditioning(goal=1.65, hysteresis=0.05, degrees=DEGREES, **options)

    whole, half = copy.deepcopy(start), copy.deepcopy(start)
    first, callback = make(), make()
    fit(lightning.pytorch, whole, tmp_path, [callback], max_epochs=4)
    trainer = fit(lightning.pytorch, half, tmp_path, [first], max_epochs=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    resumed, again = copy.deepcopy(start), make()
    fit(lightning.pytorch, resumed, tmp_path, [again], max_epochs=4, ckpt_path=tmp_path / "x.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert again.state_dict() == callback.state_dict()
    degrees = [[p.polynomial.degree for p in preconditioners(m.discriminator).values()] for m in (half, whole)]
    assert degrees[0] != degrees[1], degrees  # or nothing was switched
