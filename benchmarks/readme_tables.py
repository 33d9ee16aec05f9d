"""Write the README's tables from the JSON files of benchmarks/results/.

    python benchmarks/readme_tables.py [--check]

Each table stands between `<!-- results:NAME -->` and `<!-- /results -->`. With --check nothing is written, and the
exit status says whether the README is up to date.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from results_file import RESULTS

README = Path(__file__).parents[1] / "README.md"
PUBLISHED = {  # PC-GAN, Table 1, CIFAR-10: FID; max, second max and mean modified condition number
    "sn": (77.82, 113.55, 19.46, 17.77),
    "fpc3": (20.09, 22.65, 1.88, 3.16),
    "fpc7": (19.31, 9.88, 1.32, 1.85),
    "apc": (19.53, 12.06, 2.81, 3.19),
}
METHODS = {"sn": "SN", "fpc3": "FPC-3", "fpc7": "FPC-7", "apc": "APC"}
GAME_METHODS = {"simgd": "SimGD", "conopt": "ConOpt", "jare": "JARE"}
OPTIMIZERS = {"adam": "Adam", "ada_nsgda": "Ada-nSGDA", "nsgda": "nSGDA", "sgda": "SGDA"}
NETWORK_METHODS = {"gan": "standard GAN", "conopt": "ConOpt", "sn": "SN", "jare": "JARE"}


def table1(content: dict[str, Any]) -> list[str]:
    """Return Table 1 beside the published one, and in words how they differ."""
    rows, settings = content["result"], content["settings"]
    known = (
        "method",
        "seed",
        "iterations",
        "max",
        "second_max",
        "mean",
        "iterations_per_second",
        "commit",
        "threads",
        "hardware",
    )
    scores = [key for key in rows[0] if key not in known and not key.endswith(("precision", "recall"))]
    heads = [
        "method",
        "seed",
        "iterations",
        *(s.replace("_", " ").replace("fid", "FID").replace("kid", "KID") for s in scores),
    ]
    heads += ["max", "second max", "mean", "published: FID", "max, second, mean"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        fid, *conditions = PUBLISHED[row["method"]]
        cells = [METHODS[row["method"]], str(row["seed"]), f"{row['iterations']:,}"]
        cells += [f"{row[key]:.4g}" for key in scores] + [f"{row[key]:.2f}" for key in ("max", "second_max", "mean")]
        lines.append("| " + " | ".join([*cells, str(fid), ", ".join(map(str, conditions))]) + " |")
    widths = "/".join(map(str, settings["widths"]))
    note = (
        f"Here: widths {widths}, batch {settings['batch_size']}, {settings['iterations']:,} iterations at most; the "
        "last scores and condition numbers of each run, the latter after the polynomial. Published: widths 256/128, "
        "batch 64, 200,000 iterations, FID with Inception features. APC's interval and the "
        "horizon of the generator's average keep their share of the run: "
        f"{max(1, round(settings['iterations'] * 3000 / 200_000)):,} and {settings['iterations'] / 20:,.0f} iterations."
        " So does the linear decay of the step sizes, over the second half. The averaged generator is scored."
    )
    if settings["accelerate"]:
        note += " Here in bf16 autocast, compiled, with fused Adam."
    began = ", ".join(sorted({f"{row['commit']} with {row['threads']} thread(s) each" for row in rows}))
    return [
        *lines,
        "",
        f"{note} The runs began at commit {began}. Scores here: {settings['protocol']}",
    ]


def preconditioning_overhead(content: dict[str, Any]) -> list[str]:
    result = content["result"]
    rows = ["| discriminator's weights | median ms a step | ratio to torch's spectral norm |", "|---|---|---|"]
    for name, value in result["median_seconds"].items():
        rows.append(f"| {name} | {1e3 * value:.0f} | {result['ratio'][name]:.3f} |")
    spectrum = f"{1e3 * result['spectrum_seconds']:.0f} ms, {100 * result['spectrum_share']:.4f}%"
    return [*rows, "", f"One measurement of the full spectrum takes {spectrum} of 1,000 iterations."]


def throughput(content: dict[str, Any]) -> list[str]:
    result, settings = content["result"], content["settings"]
    speeds, reference = result["iterations_per_second"], result["iterations_per_second"]["plain eager torch, float32"]
    lines = ["| training run | iterations/s | times plain |", "|---|---|---|"]
    lines += [f"| {name} | {speed:.2f} | {speed / reference:.2f} |" for name, speed in speeds.items()]
    widths = "/".join(map(str, settings["widths"]))
    work = result["flops_per_iteration"] / 1e9
    return [*lines, "", f"Widths {widths}, batch {settings['batch_size']}: {work:.1f} GFLOP an iteration."]


def scoring(content: dict[str, Any]) -> list[str]:
    lines = ["| features | seconds | features alone | ratio | of the rest, generator |", "|---|---|---|---|---|"]
    for name, row in content["result"].items():
        ratio = row["seconds"] / row["extractor_seconds"]
        times = " | ".join(f"{row[key]:.1f}" for key in ("seconds", "extractor_seconds"))
        lines.append(f"| {name} | {times} | {ratio:.2f} | {row['generator_seconds']:.1f} |")
    settings = content["settings"]
    return [*lines, "", f"{settings['count']:,} images of a ResNet generator of width {settings['width']}."]


def optimizers(content: dict[str, Any]) -> list[str]:
    result = content["result"]
    lines = ["| optimizer | median ms a step | ratio to Adam |", "|---|---|---|"]
    return lines + [
        f"| {name} | {1e3 * value:.1f} | {result['ratio'][name]:.2f} |"
        for name, value in result["median_seconds"].items()
    ]


def guards(content: dict[str, Any]) -> list[str]:
    lines = [
        "| networks | median ms an iteration | ratio with both callbacks | guard, ms an iteration "
        "| ms of a reading, of samples, of condition numbers | share of all |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in content["result"].items():
        rare = ", ".join(f"{1e3 * row[f'{key}_seconds']:.1f}" for key in ("reading", "samples", "conditions"))
        lines.append(
            f"| {name}, batch {row['batch_size']} | {1e3 * row['step_seconds']:.0f} | {row['ratio']:.3f} "
            f"| {1e3 * row['guard_seconds']:.2f} | {rare} | {100 * row['share']:.2f}% |"
        )
    return [
        *lines,
        "",
        "The ratio is the median over pairs of neighbouring iterations. The share is of the callbacks' own time, taken "
        "directly: the guard's in every iteration, the other three every 50, 100 and 1,000 iterations.",
    ]


def processes(content: dict[str, Any]) -> list[str]:
    settings, result = content["settings"], content["result"]
    n = settings["processes"]
    return [
        f"| {n} processes | seconds an iteration |",
        "|---|---|",
        f"| each by itself | {result['alone_seconds']:.3f} |",
        f"| together, `ddp` | {result['together_seconds']:.3f} |",
        f"| ratio (range over {settings['rounds']} rounds) | {result['ratio']:.3f} "
        f"({result['ratios'][0]:.3f} to {result['ratios'][-1]:.3f}) |",
        "",
        f"ResNets of width {settings['width']}, batch {settings['batch_size']} in each process, one thread each."
        if settings["networks"] == "resnet"
        else f"CNNs of width {settings['width']}, batch {settings['batch_size']} in each process, one thread each.",
    ]


def fid(row: dict[str, Any], digits: int) -> str:
    return "diverged" if row["fid"] is None else f"{row['fid']:.{digits}f}"


def wgan_gp(content: dict[str, Any]) -> list[str]:
    """Return the sweep, the longer runs beside it, and in words how they were made."""
    result, settings = content["result"], content["settings"]
    label = "classifier FID" if settings["features"] == "classifier" else "FID"
    short, long = settings["sweep_iterations"], settings["iterations"]
    lines = [
        f"| optimizer | step sizes: {label} after {short:,} iterations | best | {label} after {long:,} iterations |",
        "|---|---|---|---|",
    ]
    for method in settings["methods"]:
        swept = [row for row in result["sweep"] if row["method"] == method]
        final = [row for row in result["final"] if row["method"] == method]
        cells = ", ".join(f"{row['step_size']:g}: {fid(row, 1)}" for row in swept)
        scores = ", ".join(fid(row, 2) for row in final)
        lines.append(f"| {OPTIMIZERS[method]} | {cells} | {final[0]['step_size']:g} | {scores} |")
    seeds = ", ".join(map(str, settings["seeds"]))
    runs = [*result["sweep"], *result["final"]]
    began = ", ".join(sorted({f"{row['commit']} with {row['threads']} thread(s) each" for row in runs}))
    return [
        *lines,
        "",
        f"Width {settings['width']}, batch {settings['batch_size']}, 5 critic updates an iteration, seed(s) "
        f"{seeds}. The runs began at commit {began}. Scores: {settings['protocol']}",
    ]


def game_updates(content: dict[str, Any]) -> list[str]:
    settings, result = content["settings"], content["result"]
    lines = [
        "| method | discriminator's weights | median ms an iteration | ratio to SimGD | peak MiB | ratio to SimGD |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['method']} | {row['weights']} | {1e3 * row['median_seconds']:.0f} | {row['time_ratio']:.2f} | "
            f"{row['peak_mebibytes']:.0f} | {row['memory_ratio']:.2f} |"
        )
    ratios = ", ".join(f"{method} {ratio:.2f}" for method, ratio in result["operation_ratio"].items())
    return [
        *lines,
        "",
        f"CNNs of width {settings['width']}, batch {settings['batch_size']}. Operations of convolutions and linear "
        f"layers, over SimGD's: {ratios}.",
    ]


def jare_networks(content: dict[str, Any]) -> list[str]:
    """Return one row for each network, one column for each method, and in words how they were made."""
    settings, rows = content["settings"], content["result"]
    lines = ["| network | " + " | ".join(NETWORK_METHODS[method] for method in settings["methods"]) + " |"]
    lines.append("|---" * (len(settings["methods"]) + 1) + "|")
    for network in map(str.upper, settings["networks"]):
        cells = []
        for row in (row for row in rows if row["network"] == network):
            cells.append(
                f"{row['generator']:.3f} / {row['discriminator']:.3f}" if row["finite"] else "not finite",
            )
        lines.append(f"| {network} | " + " | ".join(cells) + " |")
    iterations = settings["iterations"]
    began = ", ".join(sorted({f"{row['commit']} with {row['threads']} thread(s) each" for row in rows}))
    return [
        *lines,
        "",
        f"Losses of generator / discriminator, means over the last {max(1, iterations // 10):,} of {iterations:,} "
        f"iterations. Finite at every iteration in {sum(row['finite'] for row in rows)} of {len(rows)} "
        f"runs. Width {settings['width']}, batch {settings['batch_size']}, the first {settings['max_images']:,} "
        f"images, seed {settings['seed']}. The runs began at commit {began}.",
    ]


def mixture(content: dict[str, Any]) -> list[str]:
    """Return what each method's generators found at the end, mean and range over the seeds."""
    rows, settings = content["result"], content["settings"]
    lines = ["| method | modes covered | share of high-quality samples |", "|---|---|---|"]
    for method, name in GAME_METHODS.items():
        own = [row for row in rows if row["method"] == method]
        modes, shares = ([row[key] for row in own] for key in ("modes_covered", "high_quality_share"))
        lines.append(
            f"| {name} | {sum(modes) / len(modes):.1f} ({min(modes)} to {max(modes)}) "
            f"| {sum(shares) / len(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}) |"
        )
    return [
        *lines,
        "",
        f"Means and ranges over {len(settings['seeds'])} seeds after {settings['iterations']:,} iterations, width "
        f"{settings['width']}, step size {settings['lr']:g}, gamma {settings['gamma']:g}. Of 2,500 samples, those "
        "within 3 standard deviations of a mode are of high quality; 20 of them cover it.",
    ]


def faults(content: dict[str, Any]) -> list[str]:
    """Return where the kills hit, and how many runs ended as the undisturbed one did."""
    result, settings = content["result"], content["settings"]
    kinds: dict[str, list[bool]] = {
        "before the first checkpoint": [],
        "between checkpoints": [],
        "while a checkpoint was written": [],
        "after the last iteration": [],
    }
    for run in result["runs"]:
        for where in run["kills"]:
            if any(name.endswith(".part") for name in where["checkpoints"]):
                kind = "while a checkpoint was written"
            elif not where["checkpoints"]:
                kind = "before the first checkpoint"
            elif where["iteration"] == settings["iterations"]:
                kind = "after the last iteration"
            else:
                kind = "between checkpoints"
            kinds[kind].append(not run["differences"])
    lines = ["| killed | kills | ended bit-identical |", "|---|---|---|"]
    lines += [f"| {kind} | {len(ends)} | {sum(ends)} |" for kind, ends in kinds.items()]
    lines.append(f"| in all | {result['kills']} | {result['survived']} of {result['kills']} |")
    return [
        *lines,
        "",
        f"{len(result['runs'])} runs of {settings['iterations']} iterations on digits, killed "
        f"{max(len(run['kills']) for run in result['runs'])} times at most, seed {settings['seed']}.",
    ]


TABLES = {
    "faults": faults,
    "game_updates": game_updates,
    "guards": guards,
    "jare_networks": jare_networks,
    "mixture": mixture,
    "mixture_small": mixture,
    "optimizers": optimizers,
    "preconditioning_overhead": preconditioning_overhead,
    "processes": processes,
    "scoring": scoring,
    "table1": table1,
    "throughput": throughput,
    "wgan_gp": wgan_gp,
}


def table(name: str) -> str:
    """Return one table and the line that says where it was measured."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    where = content["environment"]
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    source = f"Measured on {where['date']} at commit {where['commit']}: {where['hardware']}, {threads}, {versions}."
    return "\n".join([*TABLES[name](content), "", source])


def main() -> int:
    old = README.read_text()
    pattern = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)
    new = pattern.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[3]}", old)
    if "--check" in sys.argv:
        return int(old != new)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
