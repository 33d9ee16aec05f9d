r"""Dualing GANs: the generator climbs, and the discriminator's inner problem is solved instead of descended.

Li et al., "Dualing GANs", 2017. Both play for

.. math::
    f(\theta, w) = \tfrac{C}{2} \|w\|^2 + \tfrac{1}{2n} \sum_i \log(1 + e^{-F(w, x_i)})
        + \tfrac{1}{2m} \sum_j \log(1 + e^{F(w, G_\theta(z_j))}),

the discriminator to minimise it by w, the generator to maximise what is left. A method says what stands for the minimum
over w, and where the discriminator goes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from pcgan_lightning.arguments import RecordsArguments, require_at_least, require_not_negative
from pcgan_lightning.games.derivatives import flat, gradients_of
from pcgan_lightning.games.inner_problem import InnerProblem, Total, check_problem
from pcgan_lightning.games.scored_samples import ScoredSamples, score_problem
from pcgan_lightning.spectra import without_autocast

Gradients = tuple[Tensor, ...]
Pair = tuple[Gradients, Gradients]  # of the generator and the discriminator
AT_BOUNDS = 1e-3  # a lambda is at its bounds within this share of its box


class DualingUpdate(NamedTuple):
    """What both players do from one point.

    Attributes:
        generator: what the generator descends along, shaped as its parameters: minus the gradient of the dual.
        step: what is added to the discriminator's parameters, shaped as they are.
        logits: of the dual variables, where there are any: the next call on the same samples may begin there.
        record: scalars to log, by name.
    """

    generator: Gradients
    step: Gradients
    logits: Optional[Tensor]
    record: dict[str, Tensor]


class DualingMethod(RecordsArguments, ABC):
    """What stands for the discriminator's minimum, and where the discriminator goes; see the module."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.init_args.items())})"

    @property
    def twice_differentiated(self) -> bool:
        """Whether scores are differentiated again after a derivative by the discriminator's parameters."""
        return True

    def require_digits(self, **arguments: Iterable[Tensor]) -> None:
        """Refuse tensors of 16 bits by their arguments' names, where scores are differentiated again.

        The dual's values differ by less than these would round.

        Raises:
            ValueError: naming argument, rule and value.
        """
        for name, tensors in arguments.items() if self.twice_differentiated else ():
            low = next((t.dtype for t in tensors if t.dtype.itemsize < 4), None)
            if low is not None:
                raise ValueError(f"argument `{name}` must have at least 32 bits for {type(self).__name__}, got {low}")

    @abstractmethod
    def update(self, samples: ScoredSamples, players: Pair, total: Total, logits: Optional[Tensor]) -> DualingUpdate:
        """Return the update; see :meth:`__call__`."""

    def __call__(
        self,
        real_scores: Tensor,
        fake_scores: Tensor,
        generator_parameters: Iterable[Tensor],
        discriminator_parameters: Iterable[Tensor],
        total: Total = lambda tensors: tensors,
        logits: Optional[Tensor] = None,
    ) -> DualingUpdate:
        """Return what both players do, from the scores of one batch. The scores' graph is used up.

        Args:
            real_scores: ``[n]``, with a graph.
            fake_scores: ``[m]``, of generated samples, with a graph that holds the generator's parameters.
            generator_parameters: floating tensors that require gradients.
            discriminator_parameters: the same of the discriminator.
            total: function that returns the sums of tensors over all processes, where each has a part of the batch.
            logits: of the dual variables, ``[n + m]``, to begin with; None: those of the present scores.

        Raises:
            ValueError: for fewer than two samples of a kind, players without parameters, scores without the
                derivatives that are needed, or numbers of 16 bits where scores are differentiated again.
        """
        players = tuple(generator_parameters), tuple(discriminator_parameters)
        for name, own in zip(("generator", "discriminator"), players, strict=True):
            if not own or not all(p.requires_grad for p in own):
                found = "some that do not" if own else "none"
                raise ValueError(f"argument `{name}_parameters` must hold tensors that require gradients, got {found}")
        self.require_digits(real_scores=[real_scores], fake_scores=[fake_scores], discriminator_parameters=players[1])
        with torch.enable_grad(), without_autocast(real_scores.device.type):
            samples = ScoredSamples.of(real_scores, fake_scores, total)
            return self.update(samples, players, total, logits)


class _DualAscent(DualingMethod):
    """Climb the dual of a problem that the samples pose, by Newton's method; subclasses say which problem."""

    def __init__(
        self, weight_decay: float, trust_region: Optional[float], iterations: int, products: int, tolerance: float
    ) -> None:
        check_problem(weight_decay, trust_region)
        require_at_least(0, iterations=iterations, products=products)
        require_not_negative(tolerance=tolerance)
        self.weight_decay = weight_decay
        self.trust_region = trust_region
        self.iterations = iterations
        self.products = products
        self.tolerance = tolerance

    @abstractmethod
    def problem(self, here: InnerProblem) -> InnerProblem:
        """Return what is solved, given the problem that is linear around the present parameters."""

    @override
    def update(self, samples: ScoredSamples, players: Pair, total: Total, logits: Optional[Tensor]) -> DualingUpdate:
        generator, discriminator = players
        here = score_problem(samples, discriminator, self.weight_decay, self.trust_region, total)
        problem = self.problem(here)
        start = -here.offsets.detach() if logits is None else logits  # those of the present scores
        point, primal = problem.solve(start, self.iterations, self.products, self.tolerance)
        gradients = total(_gradients(problem.saddle(point), generator))
        step = point.step - (here.center - problem.center)
        inside = point.logits.sigmoid() * (-point.logits).sigmoid() > AT_BOUNDS * (1 - AT_BOUNDS)
        counts = total(((~inside).sum().to(primal), primal.new_tensor(len(inside))))
        record = {
            "dual/primal": primal,
            "dual/value": point.value,
            "dual/gap": primal - point.value,
            "dual/bound_share": counts[0] / counts[1],
            "dual/multiplier": point.multiplier,
            "dual/step": step.norm(),
        }
        record = {name: value.detach() for name, value in record.items()}
        return DualingUpdate(gradients, _split(step, discriminator), point.logits.detach(), record)


class ScoreLinearization(_DualAscent):
    r"""Linearise the scores around the discriminator's present parameters, within a trust region.

    The dual variables climb first, by Newton's method from those that are optimal for the present scores; then the
    generator along the dual's gradient and the discriminator by s, both from the same point.

    Args:
        weight_decay: :math:`C > 0`.
        trust_region: :math:`\Delta > 0`, the bound on :math:`\tfrac12\|s\|^2`.
        iterations: Newton's for one update of the generator, at most.
        products: of one iteration, at most: each is two backward passes.
        tolerance: relative duality gap at which the dual variables stay.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        weight_decay: float = 1e-4,
        trust_region: float = 1e-3,
        iterations: int = 1,
        products: int = 3,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__(weight_decay, trust_region, iterations, products, tolerance)

    @override
    def problem(self, here: InnerProblem) -> InnerProblem:
        return here


class LinearDual(_DualAscent):
    r"""Solve for a discriminator that is linear in its parameters, :math:`F(w, x) = w^\top \phi(x)`; w is the optimum.

    Args:
        weight_decay: :math:`C > 0`.
        iterations: Newton's for one update of the generator, at most.
        tolerance: relative duality gap at which the dual variables stay.

    Raises:
        ValueError: for arguments out of range; in a call, for scores that are not linear in the parameters.
    """

    def __init__(self, weight_decay: float = 1e-3, iterations: int = 100, tolerance: float = 1e-6) -> None:
        super().__init__(weight_decay, None, iterations, 1000, tolerance)
        require_at_least(1, iterations=iterations)

    @override
    def problem(self, here: InnerProblem) -> InnerProblem:
        offsets, w = here.offsets.detach(), here.center
        difference = (here.rows.jvp(w) - offsets).abs().max()
        if difference > offsets.abs().max() * torch.finfo(offsets.dtype).eps ** 0.5:
            raise ValueError(
                "argument `discriminator_parameters` must have scores that are linear in them for LinearDual, got ones "
                "that are not"
            )
        return replace(here, offsets=torch.zeros_like(offsets), center=torch.zeros_like(w))


class CostLinearization(DualingMethod):
    r"""Linearise f itself: :math:`s = -\sqrt{2\Delta}\, \nabla_w f / \|\nabla_w f\|`, a step of normalised SGDA.

    The generator climbs f at the discriminator's present parameters.

    Args:
        weight_decay: :math:`C > 0`.
        trust_region: :math:`\Delta > 0`.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, weight_decay: float = 1e-4, trust_region: float = 1e-3) -> None:
        check_problem(weight_decay, trust_region)
        self.weight_decay = weight_decay
        self.trust_region = trust_region

    @property
    @override
    def twice_differentiated(self) -> bool:
        return False

    @override
    def update(self, samples: ScoredSamples, players: Pair, total: Total, logits: Optional[Tensor]) -> DualingUpdate:
        generator, discriminator = players
        losses = -(samples.weights * logsigmoid(samples.signs * samples.scores)).sum()
        center = flat([p.detach() for p in discriminator])
        own = flat(_gradients(losses, discriminator, retain_graph=True))
        climbed = total(_gradients(-losses, generator))
        slope, value = total((own, losses.detach()))
        gradient = slope + self.weight_decay * center
        length, radius = gradient.norm(), math.sqrt(2 * self.trust_region)
        # Where the gradient is 0, so is the step.
        step = -radius * (gradient / length.clamp(min=torch.finfo(length.dtype).tiny))
        primal = self.weight_decay / 2 * center.square().sum() + value
        record = {
            "dual/primal": primal,
            "dual/value": primal - radius * length,
            "dual/multiplier": length / radius,
            "dual/step": step.norm(),
        }
        return DualingUpdate(climbed, _split(step, discriminator), None, record)


def _gradients(loss: Tensor, parameters: Gradients, retain_graph: bool = False) -> Gradients:
    found = gradients_of(loss, parameters, names="`real_scores` and `fake_scores`", retain_graph=retain_graph)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))


def _split(vector: Tensor, parameters: Gradients) -> Gradients:
    """Return a vector over all parameters in pieces shaped as they are."""
    pieces = vector.split([p.numel() for p in parameters])
    return tuple(piece.view_as(p).to(p.dtype) for piece, p in zip(pieces, parameters, strict=True))
