r"""Dualing GANs: the linear dual on Gaussians, what keeps lambda in its box, the cost of an iteration.

    python benchmarks/dualing.py --gaussians --box --cost --save     # a CPU core, minutes

The plan, written down before the runs of five seeds, after short trials of settings
-----------------------------------------------------------------------------------
Gaussians: five and eight on a circle of radius 2, standard deviation 0.2; an MLP as generator, linear scores over
random Fourier features. The linear dual against SGDA, which takes one gradient step in w for one of the generator; the
same features, initial weights, samples, weight decay C and Adam for the generator in each seed, SGDA with two learning
rates. Seeds 1 to 5. What counts: modes covered and the share of high-quality samples at the end, of 2,500 samples,
medians over seeds; all runs are reported. How the objective moves: the minimum over w of f on 256 samples that stay the
same, solved anew after each interval, for both methods; f is what the generator climbs, so `falls` is the sum of its
falls over that of its rises, 0 where it is monotone. Once on fresh samples in each iteration, and once with the samples
of all iterations the same, where the dual's ascent has no noise.

Box: products with U and its transpose until the relative duality gap is 1e-3 and 1e-8, on problems of the same kind,
for gradient ascent with projection, the sigmoid with a gradient step (no conjugate gradients), and Newton's method.

Cost: processor seconds and peak memory of an iteration of each method over those of the alternating GAN, the methods
taking turns, the memory each in a fresh process; small CNNs for 32 pixels.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from typing import Any, Optional

import torch
from dualing_box import box
from results_file import save_result
from torch import Tensor
from torch.nn.functional import softplus

from pcgan_lightning.data import ring_of_modes
from pcgan_lightning.games import CostLinearization, LinearDual, ScoreLinearization, linear_problem
from pcgan_lightning.losses import SaturatingLoss
from pcgan_lightning.metrics import mode_coverage
from pcgan_lightning.networks import (
    CNNDiscriminator,
    CNNGenerator,
    LinearDiscriminator,
    MLPGenerator,
    RandomFourierFeatures,
)

STD, BATCH, DECAY = 0.2, 64, 1e-2
RATES: dict[str, Optional[float]] = {"linear dual": None, "SGDA, 0.1": 0.1, "SGDA, 1": 1.0}
COSTS = ("GAN", "cost", "scores, 0 products", "scores, 3 products", "linear")


class Gaussians:
    """One run: a generator and linear scores on a ring of Gaussians."""

    def __init__(self, modes: int, seed: int, fixed: bool) -> None:
        torch.manual_seed(seed)
        self.centers, self.fixed = ring_of_modes(modes), fixed
        self.generator = MLPGenerator(width=64, latent_dim=16, hidden_layers=2)
        self.phi, self.weight = RandomFourierFeatures(count=256, bandwidth=0.5, seed=seed), torch.zeros(256)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), 3e-3, (0.5, 0.999))
        self.source = torch.Generator().manual_seed(seed)
        self.reference, self.test = self.draw(256), torch.randn(2500, 16, generator=self.source)
        self.batch = self.draw(BATCH)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return real points and latents."""
        modes = self.centers[torch.arange(count) % len(self.centers)]
        real = modes + STD * torch.randn(count, 2, generator=self.source)
        return real, torch.randn(count, 16, generator=self.source)

    def iterate(self, rate: Optional[float]) -> None:
        """Play one iteration: of the linear dual, or of SGDA with a learning rate in w."""
        real, latents = self.batch if self.fixed else self.draw(BATCH)
        theta, features = list(self.generator.parameters()), (self.phi(real), self.phi(self.generator(latents)))
        if rate is None:
            problem = linear_problem(*features, DECAY)
            # Begin where the present w would be optimal.
            found = problem.solve(-problem.rows.jvp(self.weight), 10, tolerance=1e-4)
            loss, self.weight = problem.saddle(found.point), found.point.step
        else:
            weight = self.weight.clone().requires_grad_()
            losses = softplus(-features[0] @ weight).mean() / 2 + softplus(features[1] @ weight).mean() / 2
            (slope,) = torch.autograd.grad(losses, weight, retain_graph=True)
            loss, self.weight = -losses, self.weight - rate * (slope + DECAY * self.weight)
        for parameter, gradient in zip(theta, torch.autograd.grad(loss, theta), strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    @torch.no_grad()
    def features(self) -> tuple[Tensor, Tensor]:
        """Return features of real and generated samples that stay the same, float64."""
        real, latents = self.batch if self.fixed else self.reference
        return self.phi(real).double(), self.phi(self.generator(latents)).double()

    def objective(self) -> float:
        """Return the least f over w on samples that stay the same, exactly."""
        return linear_problem(*self.features(), DECAY).solve(tolerance=1e-10).primal.item()

    def measured(self) -> dict[str, float]:
        """Return what counts."""
        with torch.no_grad():
            found = mode_coverage(self.generator(self.test), self.centers, STD)
        return {"modes": found.modes_covered, "high_quality": found.high_quality_share, "objective": self.objective()}


def gaussians(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train all runs, and return a row of each; they are saved after each seed."""
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for modes, fixed in ((8, False), (5, False), (8, True)):
            for name, rate in RATES.items():
                run = Gaussians(modes, seed, fixed)
                series = [run.measured()]
                while len(series) <= arguments.iterations // arguments.every:
                    for _ in range(arguments.every):
                        run.iterate(rate)
                    series.append(run.measured())
                changes = [b["objective"] - a["objective"] for a, b in pairwise(series)]
                falls, rises = -sum(min(c, 0.0) for c in changes), sum(max(c, 0.0) for c in changes)
                row = {"method": name, "modes": modes, "fixed_samples": fixed, "seed": seed, "end": series[-1]}
                row |= {"falls": falls / rises if rises else None, "rising": sum(c > 0 for c in changes) / len(changes)}
                rows.append(row | {"series": {key: [point[key] for point in series] for key in series[0]}})
                end = ", ".join(f"{key} {value:.3g}" for key, value in series[-1].items())
                print(f"{modes} modes, seed {seed}, fixed {fixed}, {name}: {end}, falls {row['falls']}", flush=True)
        if arguments.save:
            save_result("dualing_gaussians", settings_of(arguments), rows)
    return rows


class Iteration:
    """Two players; calling it plays an iteration of a method."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name, self.generator, self.discriminator = name, CNNGenerator(width=16), CNNDiscriminator(width=16)
        if name == "linear":
            self.discriminator = LinearDiscriminator(RandomFourierFeatures((3, 32, 32), 512, 20.0))
        self.players = [list(n.parameters()) for n in (self.generator, self.discriminator)]
        self.optimizers = [torch.optim.Adam(own, 2e-4, (0.5, 0.999)) for own in self.players]
        self.real, self.loss = torch.rand(64, 3, 32, 32) * 2 - 1, SaturatingLoss()
        self.method = {
            "cost": CostLinearization(),
            "scores, 0 products": ScoreLinearization(products=0, tolerance=0.0),
            "scores, 3 products": ScoreLinearization(tolerance=0.0),
            "linear": LinearDual(),
        }.get(name)

    def scores(self) -> tuple[Tensor, Tensor]:
        return self.discriminator(self.real), self.discriminator(self.generator(torch.randn(64, 128)))

    def __call__(self) -> None:
        if self.method is not None:
            update = self.method(*self.scores(), *self.players)
            for own, gradients in zip(self.players, (update.generator, [-s for s in update.step]), strict=True):
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.grad = gradient
            for optimizer in self.optimizers:
                optimizer.step()
            return
        for player, optimizer in enumerate(self.optimizers[::-1]):
            real, fake = self.scores() if player == 0 else (None, self.scores()[1])
            loss = self.loss.discriminator(real, fake) if real is not None else self.loss.generator(fake)
            loss.backward(inputs=self.players[1 - player])
            optimizer.step()
            optimizer.zero_grad()


def peak_mebibytes(name: str) -> float:
    """Return how much more memory three iterations take at their peak than there was in use before."""
    iteration, before = Iteration(name), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        iteration()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def cost(rounds: int) -> list[dict[str, Any]]:
    """Return seconds and memory of each method, and their ratios to the alternating GAN's."""
    # Each in a fork of its own, before anything is computed here.
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        memory = dict(zip(COSTS, pool.map(peak_mebibytes, COSTS, chunksize=1), strict=True))
    iterations: dict[str, Iteration] = {name: Iteration(name) for name in COSTS}
    seconds: dict[str, list[float]] = {name: [] for name in COSTS}
    for turn in range(rounds + 1):
        for name, iteration in iterations.items():
            began = time.process_time()
            iteration()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - began)
    rows = []
    for name in COSTS:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["GAN"], strict=True))
        row = {
            "method": name,
            "seconds": statistics.median(seconds[name]),
            "ratio": ratio,
            "peak_mebibytes": memory[name],
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the results depend on."""
    named = {key: getattr(arguments, key) for key in ("iterations", "every", "seeds", "rounds")}
    return named | {"standard_deviation": STD, "batch_size": BATCH, "weight_decay": DECAY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("gaussians", "box", "cost"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--every", type=int, default=25, help="iterations between measurements")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--rounds", type=int, default=10, help="iterations of each method that are timed")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/dualing_PART.json of each part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices so small that more threads wait for one another
    parts: dict[str, Callable[[], Any]] = {
        "gaussians": lambda: gaussians(arguments),
        "box": lambda: box(lambda seed: Gaussians(8, seed, fixed=True).features()),
        "cost": lambda: cost(arguments.rounds),
    }
    for part, measure in parts.items():
        if getattr(arguments, part):
            found = measure()
            if arguments.save:
                print("saved", save_result(f"dualing_{part}", settings_of(arguments), found).name)


if __name__ == "__main__":
    main()
