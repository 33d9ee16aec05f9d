"""Kernels that one update of a discriminator launches, plain and under each kind of preconditioning.

    python benchmarks/kernels.py --save

One update is forward pass, backward pass and Adam, with all that goes with them: PC-layers' power iteration, torch's
spectral norm's own; ResNet for 32x32, 11 layers. Counted are the operations that reach torch's dispatcher below
autograd, forward and backward, but for those that compute nothing: views, allocations, questions of dtype, numbers
that are read on the CPU. One call over a list of tensors (`_foreach`) counts as one, as on an accelerator.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from preconditioning_overhead import torch_spectral_norm
from results_file import save_result
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcgan_lightning.networks import ResNetDiscriminator
from pcgan_lightning.spectra import precondition

NO_KERNELS = {"_unsafe_view", "unsafe_split", "empty", "new_empty_strided", "promote_types", "_local_scalar_dense"}


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "torch SN": torch_spectral_norm,
    **{f"degree {d}": (lambda network, d=d: precondition(network, d)) for d in (1, 3, 7, 9, 17)},
}


class KernelCounter(TorchDispatchMode):
    """Counts the operations inside of its block by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "aten" and not func.is_view and name not in NO_KERNELS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def kernels(prepare: Callable[[nn.Module], nn.Module], width: int) -> Counter[str]:
    """Return the kernels of one update by name."""
    network = prepare(ResNetDiscriminator(width=width))
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
    images = torch.rand(4, *network.image_shape)

    def update() -> None:
        optimizer.zero_grad()
        network(images).mean().backward()
        optimizer.step()

    update()  # makes Adam's state
    with KernelCounter() as counter:
        update()
    return counter.counts


def main() -> None:
    """Count, and print the kernels of each kind beyond those of the plain network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--list", action="store_true", help="print the extra kernels by name")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/kernels.json")
    arguments = parser.parse_args()
    counts = {name: kernels(prepare, arguments.width) for name, prepare in VARIANTS.items()}
    totals = {name: count.total() for name, count in counts.items()}
    for name, total in totals.items():
        print(f"{name:12} {total:6} kernels, {total - totals['plain']:4} more than plain")
        if arguments.list:
            print("  ", ", ".join(f"{n} {k}" for k, n in (counts[name] - counts["plain"]).most_common()))
    if arguments.save:
        extra = {name: total - totals["plain"] for name, total in totals.items()}
        print("saved", save_result("kernels", {"width": arguments.width}, {"kernels": totals, "extra": extra}).name)


if __name__ == "__main__":
    main()
