"""Random deep linear networks, samples and regions, to try Theorem 1 of PC-GAN on."""

import random
from typing import Optional

import torch

from pcgan_lightning.spectra import Descent, SpectralRegion, gradient_descent, linear_network, precondition


def random_run(seed: int, iterations: int, degree: Optional[int] = None) -> tuple[list[int], Descent]:
    """Train a random network, with PC-layers if a degree is given, on random samples; return its widths and the run."""
    chance, source = random.Random(seed), torch.Generator().manual_seed(seed)
    samples = chance.randint(1, 5)
    widths = sorted(chance.randint(samples, 10) for _ in range(chance.randint(2, 5)))
    widths += sorted((chance.randint(1, widths[-1]) for _ in range(chance.randint(0, 4))), reverse=True)
    network = linear_network(widths, chance.choice([None, 1.0, 10 ** chance.uniform(0, 3)]), seed)
    if degree is not None:
        precondition(network, degree, layers="all")
    region = SpectralRegion.around(network, chance.uniform(0.5, 0.99), chance.uniform(1.01, 1.5))
    inputs = torch.randn(samples, widths[0], generator=source, dtype=torch.float64)
    targets = torch.randn(samples, widths[-1], generator=source, dtype=torch.float64) * 10 ** chance.uniform(-1, 1)
    return widths, gradient_descent(network, inputs, targets, iterations, region)
