r"""The bimodal game of "Dissecting adaptive methods in GANs" (Section 3): why SGDA loses a mode and nSGDA does not.

The data are two unit vectors :math:`u_1, u_2` with :math:`\langle u_1, u_2\rangle = \gamma > 0`, equally likely. The
generator is linear, :math:`G(z) = Vz`, with one entry of the binary z set; the discriminator is

.. math:: D(x) = \sigma\big(a \textstyle\sum_i \langle w_i, x\rangle^3 + b/\sqrt{d}\big).

At each step one x and one z are drawn; D goes up and G goes down in :math:`\log D(x) + \log(1 - D(G(z)))`, with step
sizes :math:`\eta_D, \eta_G` (Equations 5 and 6).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Optional

import torch
from torch import Tensor

from pcgan_lightning.arguments import require_at_least, require_not_negative, require_positive

Rule = Literal["sgda", "nsgda"]

# A generator that has outgrown the data so far is past any equilibrium: SGDA only diverges from there on.
OUTGROWN = 3.0


class BimodalPlayers(NamedTuple):
    """Parameters, or their gradients, of S independent games.

    Attributes:
        w: D's neurons, ``[S, discriminator_neurons, d]``.
        a: D's slope, ``[S]``.
        b: D's bias, ``[S]``.
        v: G's neurons, ``[S, generator_neurons, d]``.
    """

    w: Tensor
    a: Tensor
    b: Tensor
    v: Tensor

    def discriminator_norm(self) -> Tensor:
        """Return the norm of all of D's parameters, ``[S]``."""
        return (self.w.square().sum((1, 2)) + self.a.square() + self.b.square()).sqrt()

    def generator_norm(self) -> Tensor:
        """Return the norm of all of G's parameters, ``[S]``."""
        return self.v.square().sum((1, 2)).sqrt()


@dataclass
class BimodalRun:
    r"""What S games did over time; every tensor begins with the recorded moments ``[T]`` and the games ``[S]``.

    Attributes:
        iteration: ``[T]``.
        generator_cosines: of G's neurons with u1, u2 and u1 + u2, ``[T, S, generator_neurons, 3]``.
        discriminator_cosines: of D's neurons with the same, ``[T, S, discriminator_neurons, 3]``.
        generator_speed: relative update speed, the step's length over :math:`\|V\|`, ``[T, S]``: under SGDA
            :math:`\eta_G \|g_V\| / \|V\|`, under nSGDA :math:`\eta_G / \|V\|`, 0 for a frozen game.
        discriminator_speed: the same of D's parameters together, ``[T, S]``.
        players: the final parameters.
        correlation: :math:`\gamma`.
    """

    iteration: Tensor
    generator_cosines: Tensor
    discriminator_cosines: Tensor
    generator_speed: Tensor
    discriminator_speed: Tensor
    players: BimodalPlayers
    correlation: float

    def modes_recovered(self, threshold: float = 0.9) -> Tensor:
        r"""Return for each moment and game ``[T, S]`` how many of u1 and u2 some neuron of G points to.

        Args:
            threshold: the least cosine, more than that of u1 with u1 + u2, :math:`\sqrt{(1+\gamma)/2}`, which would
                count as both.

        Raises:
            ValueError: for a threshold out of range.
        """
        least = math.sqrt((1 + self.correlation) / 2)
        if not least < threshold <= 1.0:
            raise ValueError(
                f"argument `threshold` must be above the average's cosine {least:.4g}, at most 1, got {threshold}"
            )
        return (self.generator_cosines[..., :2] >= threshold).any(2).sum(-1)


class BimodalGame:
    r"""The game, for many seeds at once.

    Args:
        dimension: d, at least 8.
        correlation: :math:`\gamma` in (0, 1). None: 1 / log d.
        discriminator_neurons: None: log d, rounded.
        generator_neurons: None: 2 log d, rounded.
        discriminator_scale: the expected norm of D's neurons at the start.
        generator_scale: the expected norm of G's neurons at the start.
        slope: a at the start.

    Attributes:
        modes: u1 and u2, float64 ``[2, d]``.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        dimension: int = 200,
        correlation: Optional[float] = None,
        discriminator_neurons: Optional[int] = None,
        generator_neurons: Optional[int] = None,
        discriminator_scale: float = 0.1,
        generator_scale: float = 0.1,
        slope: float = 1.0,
    ) -> None:
        require_at_least(8, dimension=dimension)
        correlation = 1 / math.log(dimension) if correlation is None else correlation
        if not 0.0 < correlation < 1.0:
            raise ValueError(f"argument `correlation` must be in (0, 1), got {correlation}")
        self.dimension = dimension
        by_default = round(math.log(dimension)), round(2 * math.log(dimension))
        self.discriminator_neurons = by_default[0] if discriminator_neurons is None else discriminator_neurons
        self.generator_neurons = by_default[1] if generator_neurons is None else generator_neurons
        require_positive(
            discriminator_neurons=self.discriminator_neurons,
            generator_neurons=self.generator_neurons,
            discriminator_scale=discriminator_scale,
            generator_scale=generator_scale,
        )
        self.discriminator_scale = discriminator_scale
        self.generator_scale = generator_scale
        self.slope = slope
        self.modes = torch.zeros(2, dimension, dtype=torch.float64)
        self.modes[0, 0] = 1.0
        self.modes[1, :2] = torch.tensor([correlation, math.sqrt(1 - correlation**2)])

    def initial(self, seeds: range) -> BimodalPlayers:
        """Return the players at the start, each game's decided by its own seed."""
        sources = [torch.Generator().manual_seed(2 * seed) for seed in seeds]

        def draw(neurons: int, scale: float) -> Tensor:
            shape = (neurons, self.dimension)
            drawn = [torch.randn(shape, generator=source, dtype=torch.float64) for source in sources]
            return torch.stack(drawn) * (scale / math.sqrt(self.dimension))

        w = draw(self.discriminator_neurons, self.discriminator_scale)
        v = draw(self.generator_neurons, self.generator_scale)
        constant = w.new_ones(len(seeds))
        return BimodalPlayers(w, self.slope * constant, 0.0 * constant, v)

    def gradients(self, players: BimodalPlayers, real: Tensor, neuron: Tensor) -> BimodalPlayers:
        """Return the gradients of log D(x) + log(1 - D(G(z))) on one x and one z for each game.

        Args:
            players: the parameters.
            real: x, ``[S, d]``.
            neuron: which entry of z is set, int64 ``[S]``.
        """
        w, a, b, v = players
        games = torch.arange(len(a))
        fake = v[games, neuron]  # [S, d]
        on_real = (w @ real[:, :, None]).squeeze(2)  # <w_i, x>, [S, discriminator_neurons]
        on_fake = (w @ fake[:, :, None]).squeeze(2)
        shift = b / math.sqrt(self.dimension)
        # d log D(x) = (1 - D(x)) dF(x) and d log(1 - D(G)) = -D(G) dF(G), with F before the sigmoid.
        up = torch.sigmoid(-(a * on_real.pow(3).sum(1) + shift))  # [S]
        down = torch.sigmoid(a * on_fake.pow(3).sum(1) + shift)
        from_real = (3 * up * a)[:, None] * on_real.square()
        from_fake = (3 * down * a)[:, None] * on_fake.square()
        grad_w = from_real[:, :, None] * real[:, None] - from_fake[:, :, None] * fake[:, None]
        grad_a = up * on_real.pow(3).sum(1) - down * on_fake.pow(3).sum(1)
        grad_b = (up - down) / math.sqrt(self.dimension)
        grad_v = torch.zeros_like(v)
        grad_v[games, neuron] = -(from_fake[:, None] @ w).squeeze(1)
        return BimodalPlayers(grad_w, grad_a, grad_b, grad_v)

    def play(
        self,
        rule: Rule,
        discriminator_rate: float,
        generator_rate: float,
        iterations: int,
        seeds: range = range(100),
        record_every: int = 50,
    ) -> BimodalRun:
        r"""Play the game from the start, for all seeds at once.

        Under nSGDA each player's gradient is divided by its norm, D's over all its parameters. A game under SGDA is
        frozen when the generator has outgrown the data (a neuron longer than 3), from where on it diverges.

        Args:
            rule: "sgda" (Equation 5) or "nsgda" (Equation 6).
            discriminator_rate: :math:`\eta_D`.
            generator_rate: :math:`\eta_G`.
            iterations: steps.
            seeds: one game for each; a seed's game does not depend on the others.
            record_every: steps between recorded moments.

        Raises:
            ValueError: for arguments out of range.
        """
        if rule not in ("sgda", "nsgda"):
            raise ValueError(f"argument `rule` must be 'sgda' or 'nsgda', got {rule!r}")
        require_at_least(1, iterations=iterations, record_every=record_every, seeds=len(seeds))
        require_not_negative(discriminator_rate=discriminator_rate, generator_rate=generator_rate)
        players = self.initial(seeds)
        which_mode, which_neuron = self._draws(seeds, iterations + 1)  # one more, for the last speeds
        alive = torch.ones(len(seeds), dtype=torch.bool)
        records = []
        for t in range(iterations + 1):
            g = self.gradients(players, self.modes[which_mode[:, t]], which_neuron[:, t])
            norms = g.discriminator_norm(), g.generator_norm()
            if rule == "sgda":
                alive &= players.v.norm(dim=2).amax(1) < OUTGROWN
                d, e = discriminator_rate * alive.double(), generator_rate * alive.double()
            else:
                d, e = discriminator_rate * _inverse(norms[0]), generator_rate * _inverse(norms[1])
            if t % record_every == 0 or t == iterations:
                speeds = e * norms[1] / players.generator_norm(), d * norms[0] / players.discriminator_norm()
                records.append((t, self._cosines(players.v), self._cosines(players.w), *speeds))
            if t == iterations:
                break
            # Frozen games may hold infinite gradients, which 0 would not undo.
            step = [torch.nan_to_num(x) for x in g] if rule == "sgda" else g
            players = BimodalPlayers(
                players.w + d[:, None, None] * step[0],
                players.a + d * step[1],
                players.b + d * step[2],
                players.v - e[:, None, None] * step[3],
            )
        moments, *columns = zip(*records, strict=True)
        v_cosines, w_cosines, v_speed, w_speed = (torch.stack(column) for column in columns)
        correlation = (self.modes[0] @ self.modes[1]).item()
        return BimodalRun(torch.tensor(moments), v_cosines, w_cosines, v_speed, w_speed, players, correlation)

    def _draws(self, seeds: range, iterations: int) -> tuple[Tensor, Tensor]:
        """Return which mode and which neuron each game draws at each step, ``[S, iterations]``."""
        sources = [torch.Generator().manual_seed(2 * seed + 1) for seed in seeds]
        # Both from one number, so that a longer game begins like a shorter one.
        pairs = [torch.randint(2 * self.generator_neurons, (iterations,), generator=source) for source in sources]
        drawn = torch.stack(pairs)
        return drawn % 2, drawn // 2

    def _cosines(self, neurons: Tensor) -> Tensor:
        """Return the cosines of neurons ``[S, n, d]`` with u1, u2 and u1 + u2, ``[S, n, 3]``."""
        directions = torch.cat([self.modes, self.modes.sum(0, keepdim=True)])
        directions = directions / directions.norm(dim=1, keepdim=True)
        return (neurons @ directions.T) / neurons.norm(dim=2, keepdim=True)


def _inverse(norms: Tensor) -> Tensor:
    """Return 1 / norms, and 0 where the norm is 0."""
    return torch.where(norms > 0, 1 / norms, 0.0)
