r"""The board: how many of the 1,000 modes of stacked digits each method covers, through `pcgan fit`.

    python benchmarks/mode_coverage.py --parallel 2 --save     # train what is missing, measure, collect
    python benchmarks/mode_coverage.py --collect --save        # collect what has finished, train nothing

Goes on with what was interrupted and leaves out what is finished. Any number of cores: the runs share nothing.

The plan, written down before the first run of its kind
-------------------------------------------------------
Question: does a preconditioned discriminator keep a small GAN from losing modes where spectral normalisation does not,
as a pilot of four seeds suggested (FPC-7 covers 995, 999, 388, 985 modes, SN 441, 27, 339, 191)?

A first plan, with these networks but no ReLU after the generator's linear layer, was run for SN and FPC-7 on seeds 1
to 5: nothing broke (SN 994 to 1,000 modes, FPC-7 992 to 1,000). Its runs are among the results, as a row of their own.
Then a plain loop without Lightning was tried with and without that ReLU, which networks of this kind commonly have and
the paper's table lacks; two seeds at most, and all but two runs ended by hand. With it SN covered 1 mode after 1,000
iterations (first seed) and 24 after 4,000 (second), a plain discriminator 3 after 1,000, FPC-7 981 and 987 after 5,000;
without it SN covered 993 after 3,000. So the generator of the configurations has the ReLU now, and this plan was
written before any run of it through the command.

Runs: configs/stacked_digits/<method>.yaml as shipped, 5,000 iterations each: CNNs for 8x8, hinge loss, one update of
each player an iteration, the discriminator first, batch 64, Adam 2e-4 (0, 0.9) for both, no decay, no average. The
initial weights are torch's own. A run's seed decides its weights, latents and images, and is shared by all methods.

- Central row: none, sn, fpc3, fpc5, fpc7, fpc9, fpc17, apc with seeds 1 to 5; the other methods with seed 1.
- Then, of sn, fpc7 and fpc17: the discriminator 6 and 12 convolutions deeper, learning rates 1e-4 and 1e-3 of both
  players, the non-saturating loss, no ReLU after the generator's linear layer; one change at a time, seeds 1 to 3.

The number that decides: modes covered after 5,000 iterations, of 1,000, as `ModeCoverage` counts them in 25,600
samples. The claim is confirmed if the median over seeds of fpc7 is above that of sn, and the seeds, paired, differ by a
one-sided Wilcoxon signed-rank test with p <= 0.05; with 5 seeds that takes all five, p = 1/32. KL to uniform is the
second number, reported with it. All other comparisons are described, not tested. Nothing is tuned, no run is left out;
a run whose weights become infinite counts with the modes it had when it was last measured.

Equal seconds: runs share a machine with other work, so the seconds of an iteration are measured apart, by
--time, with the methods taking turns in one process; `modes at equal seconds` are those at the last measurement before
as many seconds as sn takes for its 5,000 iterations.

Why: over all runs of the central row, Spearman's correlation of the final modes with (a) the largest modified condition
number after the polynomial, (b) the norm of the gradient that the generator gets, (c) the decrease of the
discriminator's loss in 10 further steps on a frozen generator; each as the median over the run's measurements up to
iteration 1,000 (before most collapses) and over all. Does the condition number foretell a collapse? A collapse is a
fall of modes to less than half of the run's earlier maximum, between measurements 500 iterations apart; compared is
the condition number at the last measurement before it with those of the same method's measurements that no collapse
follows.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mode_coverage_analysis import CENTRAL_SETTING, analyze, is_central, read_run
from mode_coverage_pictures import over_iterations, scatter
from mode_coverage_tables import METHODS, mode_coverage
from mode_coverage_time import measure
from results_file import RESULTS, save_result
from training_runs import ROOT, train

ITERATIONS = 5000
SEEDS = (1, 2, 3, 4, 5)
TIMES = "mode_coverage_seconds"
CENTRAL = ("sn", "fpc7", "fpc17", "none", "apc", "fpc5", "fpc9", "fpc3")
OTHERS = tuple(method for method in METHODS if method not in CENTRAL)
CHANGES = (
    {"depth": 6},
    {"rate": 1e-3},
    {"loss": "NonSaturatingLoss"},
    {"depth": 12},
    {"rate": 1e-4},
    {"linear_relu": False},
)
CHANGED = ("sn", "fpc7", "fpc17")


@dataclass(frozen=True)
class Run:
    """One run: a method, a seed, and what differs from the central row.

    Attributes:
        depth: further convolutions of the discriminator: 0, 6 or 12.
        rate: learning rate of both players.
        linear_relu: whether a ReLU follows the generator's linear layer.
    """

    method: str
    seed: int
    depth: int = CENTRAL_SETTING["depth"]
    rate: float = CENTRAL_SETTING["rate"]
    loss: str = CENTRAL_SETTING["loss"]
    linear_relu: bool = CENTRAL_SETTING["linear_relu"]

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        changes = [
            f"depth{self.depth}" if self.depth else "",
            f"rate{self.rate:g}" if self.rate != 2e-4 else "",
            self.loss if self.loss != "HingeLoss" else "",
            "" if self.linear_relu else "linear",
        ]
        return "_".join(filter(None, [self.method, *changes, str(self.seed)]))

    def command(self, iterations: int = ITERATIONS) -> list[str]:
        """Return the arguments of its `pcgan fit`, without the folder."""
        call = ["--config", f"configs/stacked_digits/{self.method}.yaml", "--seed_everything", str(self.seed)]
        call += ["--trainer.max_steps", str(iterations), "--progress.refresh_every_n_steps", "100"]
        if self.depth:
            call += ["--model.discriminator.extra_convolutions", str(self.depth // 2)]  # at each of two resolutions
        if self.rate != 2e-4:
            for player in ("generator", "discriminator"):
                call += [f"--model.{player}_optimizer.lr", f"{self.rate:g}"]
        if not self.linear_relu:
            call += ["--model.generator.linear_relu", "false"]
        return call + (["--model.loss", self.loss] if self.loss != "HingeLoss" else [])


def planned(seeds: Iterable[int] = SEEDS) -> Iterator[Run]:
    """Yield all runs of the plan in the order in which they are trained."""
    first, *further = seeds
    # What the plan tests, before everything else; then each method once; then seed by seed, for an early end.
    yield from (Run(method, seed) for seed in (first, *further) for method in CENTRAL[:2])
    yield from (Run(method, first) for method in (*CENTRAL[2:], *OTHERS))
    yield from (Run(method, seed) for seed in further for method in CENTRAL[2:])
    for seed in (first, *further)[:3]:
        yield from (Run(method, seed, **change) for change in CHANGES for method in CHANGED)


def chosen(arguments: argparse.Namespace) -> dict[Run, Path]:
    """Return the runs that are asked for and their folders."""
    runs = [run for run in planned(arguments.seeds) if run.method in arguments.methods]
    if arguments.central:
        runs = [run for run in runs if is_central(asdict(run))]
    return {run: arguments.runs / run.name for run in runs}


def collect(runs: dict[Run, Path], iterations: int) -> list[dict[str, Any]]:
    """Return what the finished runs measured; the others are named."""
    found = {run: read_run(folder, iterations) for run, folder in runs.items()}
    collected = [asdict(run) | row for run, row in found.items() if row is not None]
    known = [*map(identity, collected)]
    collected += [row for row in saved_rows(iterations) if identity(row) not in known]
    known = [*map(identity, collected)]
    missing = [run.name for run in found if identity(asdict(run)) not in known]
    finished = len(found) - len(missing)
    print(f"{finished} of {len(found)} runs have finished; not yet: {', '.join(missing) or 'none'}", file=sys.stderr)
    return collected


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells one run of the plan from the others."""
    return tuple(row[field.name] for field in fields(Run))


def saved_rows(iterations: int) -> list[dict[str, Any]]:
    """Return the runs of the results file, whose folders may be gone."""
    path = RESULTS / "mode_coverage.json"
    content = json.loads(path.read_text()) if path.exists() else {"settings": {"iterations": None}}
    if content["settings"]["iterations"] != iterations:
        return []
    rows = content["result"]["runs"]
    for row in rows:
        for name, points in row["series"].items():
            row["series"][name] = dict(zip(points["iteration"], points["value"], strict=True))
    return rows


def known_seconds() -> dict[str, float]:
    """Return the seconds of an iteration that --time measured, none without such a measurement."""
    path = RESULTS / f"{TIMES}.json"
    return json.loads(path.read_text())["result"] if path.exists() else {}


def save(arguments: argparse.Namespace, rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Write the results and the pictures."""
    for row in rows:
        row["series"] = {
            name: {"iteration": list(series), "value": list(series.values())} for name, series in row["series"].items()
        }
    settings = {"iterations": arguments.iterations, "seeds": arguments.seeds, "samples": 25_600}
    settings["config"] = "configs/stacked_digits/<method>.yaml"
    print("saved", save_result("mode_coverage", settings, {"runs": rows, **found}).name, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--central", action="store_true", help="the central row alone")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "mode_coverage")
    parser.add_argument("--time", action="store_true", help="measure the seconds of an iteration, nothing else")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ and docs/mode_coverage*.png")
    arguments = parser.parse_args()

    if arguments.time:
        seconds = measure(arguments.methods)
        print("\n".join(f"{method}: {1e3 * value:.1f} ms" for method, value in seconds.items()))
        if arguments.save:
            settings = {"batch_size": 64, "seconds": "of the processor, median over iterations, methods in turns"}
            save_result(TIMES, settings, seconds)
        return
    runs = chosen(arguments)
    if not arguments.collect:
        calls = {folder: run.command(arguments.iterations) for run, folder in runs.items()}
        train(calls, arguments.iterations, arguments.parallel, threads=1)  # so small networks gain nothing from more
    rows = collect(runs, arguments.iterations)
    found = analyze(rows, arguments.iterations, known_seconds())
    print(
        "\n".join(mode_coverage({"settings": {"iterations": arguments.iterations}, "result": {"runs": rows, **found}}))
    )
    if arguments.save:
        central = [row for row in rows if is_central(row)]
        over_iterations([row for row in central if row["method"] in CENTRAL], METHODS, ROOT / "docs" / "modes.png")
        scatter(central, METHODS, ROOT / "docs" / "modes_mechanisms.png")
        save(arguments, rows, found)


if __name__ == "__main__":
    main()
