"""The cost of a convolution's exact spectrum, of its norm and of the certified bound.

    python benchmarks/convolution_spectra.py [--save]

The full spectrum of a circular 3x3 convolution against what public implementations do (Sedghi et al. 2019): the Fourier
transform of the padded kernel and an SVD at every frequency, in the same precision. The two take turns within one
process; processor time, medians of ratios within a turn. Memory: what torch allocates at most beyond what was there,
counted by its profiler. Then the norm, measured at every iteration: its share of a training step of ResNet-32.
"""

import argparse
import copy
import resource
import statistics
import time
from collections.abc import Callable

import torch
from preconditioning_overhead import Step
from results_file import save_result
from torch import Tensor, nn

from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator
from pcgan_lightning.spectra import (
    ConvolutionOperator,
    convolution_norm_bound,
    convolution_operators,
    convolution_singular_values,
    original_weight,
    power_iteration,
    precondition,
    weight_layers,
)

PUBLIC = ("float32", "float64")


def public(weight: Tensor, size: int, precision: str) -> Tensor:
    """Return all singular values, from the blocks of all frequencies."""
    blocks = torch.fft.fft2(weight.to(getattr(torch, precision)), s=(size, size)).permute(2, 3, 0, 1)
    return torch.linalg.svdvals(blocks).flatten().sort(descending=True).values


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measured(function: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """Return the processor time of a call, how much more memory torch holds at most during it, and its result."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        start = time.process_time()
        result = function()
        elapsed = time.process_time() - start
    held, peak = 0, 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return elapsed, peak / 2**20, result


def spectra(channels: int, size: int, turns: int) -> list[dict[str, float | int | str]]:
    """Compare the full spectra of one random kernel."""
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", bias=False)
    operator, weight = ConvolutionOperator.of_layer(layer, (size, size)), layer.weight.detach()
    calls: dict[str, Callable[[], Tensor]] = {"ours": lambda: convolution_singular_values(weight, operator)}
    calls |= {p: (lambda p=p: public(weight, size, p)) for p in PUBLIC}  # type: ignore[misc]
    found = [{name: measured(call) for name, call in calls.items()} for _ in range(turns)]
    found = found[1:] or found  # the first warms up
    truth = found[-1]["float64"][2]
    rows = []
    for name in calls:
        ratio = statistics.median(turn[name][0] / turn["ours"][0] for turn in found)
        _, peak, values = found[-1][name]
        error = ((values - truth).abs().max() / truth[0]).item()
        spent = statistics.median(turn[name][0] for turn in found)
        rows.append({"channels": channels, "method": name, "seconds": spent, "time_ratio": ratio})
        rows[-1] |= {"peak_mebibytes": peak, "error": error}
        print(rows[-1], flush=True)
    return rows


def shares(width: int, batch_size: int, rounds: int) -> dict[str, float]:
    """Return how much of a training step the norms of all layers take, measured in every step."""
    torch.manual_seed(0)
    generator, discriminator = ResNetGenerator(width=width), ResNetDiscriminator(width=width)
    warm = precondition(copy.deepcopy(discriminator), 1, norm="operator", input_shape=discriminator.image_shape)
    precondition(discriminator, 1)
    step = Step(generator, discriminator, batch_size, cached=True)
    operators = convolution_operators(discriminator, discriminator.image_shape)
    layers = weight_layers(discriminator)

    @torch.no_grad()
    def bounds() -> None:
        for name, operator in operators.items():
            convolution_norm_bound(original_weight(layers[name]), operator)

    measures = {"warm power iteration": lambda: power_iteration(warm), "certified bound": bounds}
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        whole = seconds(step)
        parts = {name: seconds(measure) for name, measure in measures.items()}
        for name, part in parts.items():
            if turn:
                found[name].append(part / whole)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256], help="in and out")
    parser.add_argument("--size", type=int, default=32, help="of the images")
    parser.add_argument(
        "--turns", type=int, default=5, help="of each method, the first of which warms up; from 256 channels on, one"
    )
    parser.add_argument("--width", type=int, default=64, help="of both players")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="training steps that are timed")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/convolution_spectra.json")
    arguments = parser.parse_args()
    rows = [row for c in arguments.channels for row in spectra(c, arguments.size, arguments.turns if c < 256 else 1)]
    share = shares(arguments.width, arguments.batch_size, arguments.rounds) if arguments.rounds else {}
    print(share)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB resident at most")
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k != "save"}
        save_result("convolution_spectra", settings, {"spectra": rows, "share_of_step": share})


if __name__ == "__main__":
    main()
