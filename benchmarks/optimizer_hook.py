"""What preconditioned networks cost an optimizer that holds none of their weights.

    python benchmarks/optimizer_hook.py --save

A step of plain SGD on one parameter, the cheapest there is, with no preconditioned network alive and with many. Both
take turns within one process: a network is made invisible to the hook, and visible again, without being built anew, so
that a busy machine slows both alike; the ratio is the median over turns. The cost of the hook's call itself, against an
optimizer whose steps call no hook, is printed beside it.
"""

import argparse
import statistics
import time

import torch
from results_file import save_result
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from pcgan_lightning.spectra import power_iterations, precondition
from pcgan_lightning.spectra.followed_layers import FollowedLayers


def network(layers: int) -> nn.Module:
    return precondition(nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers))), 3, "all")


def microseconds(optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Return the time of one step, a mean over some."""
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    return 1e6 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--layers", type=int, default=20, help="of each network")
    parser.add_argument("--steps", type=int, default=200, help="between two turns")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/optimizer_hook.json")
    arguments = parser.parse_args()

    none, many = FollowedLayers(), power_iterations.FOLLOWED_LAYERS
    networks = [network(arguments.layers) for _ in range(arguments.networks)]
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    hooks = dict(_global_optimizer_post_hooks)
    times: dict[str, list[float]] = {"no hook": [], "none alive": [], "many alive": []}
    for turn in range(arguments.rounds + 2):
        # The order changes from turn to turn: the first one after a change may find a colder cache.
        for name in list(times)[:: 1 if turn % 2 else -1]:
            power_iterations.FOLLOWED_LAYERS = many if name == "many alive" else none
            _global_optimizer_post_hooks.clear()
            if name != "no hook":
                _global_optimizer_post_hooks.update(hooks)
            elapsed = microseconds(optimizer, arguments.steps)
            if turn >= 2:  # the first two warm up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        f"many alive / {name}": statistics.median(a / b for a, b in zip(times["many alive"], times[name], strict=True))
        for name in ("none alive", "no hook")
    }
    layers = sum(len(list(n)) for n in networks)
    print(f"{layers} preconditioned layers")
    for name, median in medians.items():
        print(f"{name:12} {median:8.2f} microseconds")
    for name, ratio in ratios.items():
        print(f"{name:24} {ratio:6.3f}")
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k != "save"}
        print("saved", save_result("optimizer_hook", settings, {"median_microseconds": medians, "ratio": ratios}).name)


if __name__ == "__main__":
    main()
