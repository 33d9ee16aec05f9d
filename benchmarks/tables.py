"""Write the tables of README.md and docs/ from the JSON files of benchmarks/results/.

    python benchmarks/tables.py [--check]

Each table stands between `<!-- results:NAME -->` and `<!-- /results -->`. With --check nothing is written, and the
exit status says whether all pages are up to date.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convolution_tables import convolution_spectra, operator_normalization
from dualing_tables import dualing_box, dualing_cost, dualing_gaussians, dualing_images
from faults_tables import faults, faults_points
from language_model_tables import language_model
from markdown_tables import markdown
from mode_coverage_tables import mode_coverage, mode_coverage_short
from results_file import RESULTS
from settings_matrix import settings_matrix
from table1_tables import table1
from theorem1_tables import theorem1

ROOT = Path(__file__).parents[1]
GAME_METHODS = {"simgd": "SimGD", "conopt": "ConOpt", "jare": "JARE"}
OPTIMIZERS = {"adam": "Adam", "ada_nsgda": "Ada-nSGDA", "nsgda": "nSGDA", "sgda": "SGDA"}
COLUMNS = (("milliseconds", 2), ("ratio", 3))  # of each kind of time in the table of polynomials
NETWORK_METHODS = {"gan": "standard GAN", "conopt": "ConOpt", "sn": "SN", "jare": "JARE"}


def beginnings(rows: Iterable[dict[str, Any]]) -> str:
    """Return at which commits runs began, and with how many threads."""
    return ", ".join(sorted({f"{row['commit']} with {row['threads']} thread(s) each" for row in rows}))


def preconditioning_overhead(content: dict[str, Any]) -> list[str]:
    result = content["result"]
    rows = [[n, f"{1e3 * s:.0f}", f"{result['ratio'][n]:.3f}"] for n, s in result["median_seconds"].items()]
    spectrum = f"{1e3 * result['spectrum_seconds']:.0f} ms, {100 * result['spectrum_share']:.4f}%"
    heads = ["discriminator's weights", "median ms a step", "ratio to torch's spectral norm"]
    return markdown(heads, rows, f"One measurement of the full spectrum takes {spectrum} of 1,000 iterations.")


def kernels(content: dict[str, Any]) -> list[str]:
    result = content["result"]
    rows = [[name, str(count), str(result["extra"][name])] for name, count in result["kernels"].items()]
    note = f"ResNet for 32x32, width {content['settings']['width']}, 11 layers: forward pass, backward pass and Adam."
    return markdown(["discriminator's weights", "kernels an update", "more than plain"], rows, note)


def polynomials(content: dict[str, Any]) -> list[str]:
    heads = ["matrix", "degree", "forward, ms", "ratio to degree 9", "with backward, ms", "ratio"]
    rows = [
        [shape, degree, *(f"{row[f'{name}_{key}']:.{d}f}" for name in ("forward", "both") for key, d in COLUMNS)]
        for shape, degrees in content["result"].items()
        for degree, row in degrees.items()
    ]
    note = f"Processor time on one thread, float32; medians over {content['settings']['rounds']} rounds of the shapes."
    return markdown(heads, rows, note)


def throughput(content: dict[str, Any]) -> list[str]:
    result, settings = content["result"], content["settings"]
    speeds, reference = result["iterations_per_second"], result["iterations_per_second"]["plain eager torch, float32"]
    rows = [[name, f"{speed:.2f}", f"{speed / reference:.2f}"] for name, speed in speeds.items()]
    widths, work = "/".join(map(str, settings["widths"])), result["flops_per_iteration"] / 1e9
    note = f"Widths {widths}, batch {settings['batch_size']}: {work:.1f} GFLOP an iteration."
    return markdown(["training run", "iterations/s", "times plain"], rows, note)


def scoring(content: dict[str, Any]) -> list[str]:
    settings, rows = content["settings"], []
    for name, row in content["result"].items():
        whole, alone, generator = (row[f"{key}seconds"] for key in ("", "extractor_", "generator_"))
        rows.append([name, f"{whole:.1f}", f"{alone:.1f}", f"{whole / alone:.2f}", f"{generator:.1f}"])
    heads = ["features", "seconds", "features alone", "ratio", "of the rest, generator"]
    note = f"{settings['count']:,} images of a ResNet generator of width {settings['width']}."
    return markdown(heads, rows, note)


def optimizers(content: dict[str, Any]) -> list[str]:
    result = content["result"]
    rows = [[n, f"{1e3 * s:.1f}", f"{result['ratio'][n]:.2f}"] for n, s in result["median_seconds"].items()]
    return markdown(["optimizer", "median ms a step", "ratio to Adam"], rows)


def guards(content: dict[str, Any]) -> list[str]:
    heads = ["networks", "median ms an iteration", "ratio with both callbacks", "guard, ms an iteration"]
    heads += ["ms of a reading, of samples, of condition numbers", "share of all"]
    rows = []
    for name, row in content["result"].items():
        cells = [f"{name}, batch {row['batch_size']}", f"{1e3 * row['step_seconds']:.0f}", f"{row['ratio']:.3f}"]
        rare = ", ".join(f"{1e3 * row[f'{key}_seconds']:.1f}" for key in ("reading", "samples", "conditions"))
        rows.append([*cells, f"{1e3 * row['guard_seconds']:.2f}", rare, f"{100 * row['share']:.2f}%"])
    note = (
        "The ratio is the median over pairs of neighbouring iterations. The share is of the callbacks' own time, taken "
        "directly: the guard's in every iteration, the other three every 50, 100 and 1,000 iterations."
    )
    return markdown(heads, rows, note)


def processes(content: dict[str, Any]) -> list[str]:
    settings, result = content["settings"], content["result"]
    ratios = f"{result['ratio']:.3f} ({result['ratios'][0]:.3f} to {result['ratios'][-1]:.3f})"
    rows = [
        ["each by itself", f"{result['alone_seconds']:.3f}"],
        ["together, `ddp`", f"{result['together_seconds']:.3f}"],
        [f"ratio (range over {settings['rounds']} rounds)", ratios],
    ]
    networks = "ResNets" if settings["networks"] == "resnet" else "CNNs"
    note = f"{networks} of width {settings['width']}, batch {settings['batch_size']} in each process, one thread each."
    return markdown([f"{settings['processes']} processes", "seconds an iteration"], rows, note)


def fid(row: dict[str, Any], digits: int) -> str:
    return "diverged" if row["fid"] is None else f"{row['fid']:.{digits}f}"


def wgan_gp(content: dict[str, Any]) -> list[str]:
    """Return the sweep, the longer runs beside it, and in words how they were made."""
    result, settings = content["result"], content["settings"]
    label = "classifier FID" if settings["features"] == "classifier" else "FID"
    short, long = settings["sweep_iterations"], settings["iterations"]
    rows = []
    for method in settings["methods"]:
        swept = [row for row in result["sweep"] if row["method"] == method]
        final = [row for row in result["final"] if row["method"] == method]
        cells = ", ".join(f"{row['step_size']:g}: {fid(row, 1)}" for row in swept)
        scores = ", ".join(fid(row, 2) for row in final)
        rows.append([OPTIMIZERS[method], cells, f"{final[0]['step_size']:g}", scores])
    heads = [
        "optimizer",
        f"step sizes: {label} after {short:,} iterations",
        "best",
        f"{label} after {long:,} iterations",
    ]
    note = (
        f"Width {settings['width']}, batch {settings['batch_size']}, 5 critic updates an iteration, seed(s) "
        f"{', '.join(map(str, settings['seeds']))}. The runs began at commit "
        f"{beginnings([*result['sweep'], *result['final']])}. Scores: {settings['protocol']}"
    )
    return markdown(heads, rows, note)


def game_updates(content: dict[str, Any]) -> list[str]:
    settings, result = content["settings"], content["result"]
    rows = []
    for row in result["rows"]:
        time = f"{1e3 * row['median_seconds']:.0f}", f"{row['time_ratio']:.2f}"
        rows.append(
            [row["method"], row["weights"], *time, f"{row['peak_mebibytes']:.0f}", f"{row['memory_ratio']:.2f}"]
        )
    heads = [
        "method",
        "discriminator's weights",
        "median ms an iteration",
        "ratio to SimGD",
        "peak MiB",
        "ratio to SimGD",
    ]
    ratios = ", ".join(f"{method} {ratio:.2f}" for method, ratio in result["operation_ratio"].items())
    note = (
        f"CNNs of width {settings['width']}, batch {settings['batch_size']}. Operations of convolutions and linear "
        f"layers, over SimGD's: {ratios}."
    )
    return markdown(heads, rows, note)


def jare_networks(content: dict[str, Any]) -> list[str]:
    """Return one row for each network, one column for each method, and in words how they were made."""
    settings, rows = content["settings"], content["result"]
    lines = []
    for network in map(str.upper, settings["networks"]):
        own = [row for row in rows if row["network"] == network]
        losses = [
            f"{row['generator']:.3f} / {row['discriminator']:.3f}" if row["finite"] else "not finite" for row in own
        ]
        lines.append([network, *losses])
    iterations, finite = settings["iterations"], sum(row["finite"] for row in rows)
    note = (
        f"Losses of generator / discriminator, means over the last {max(1, iterations // 10):,} of {iterations:,} "
        f"iterations. Finite at every iteration in {finite} of {len(rows)} runs. Width {settings['width']}, batch "
        f"{settings['batch_size']}, the first {settings['max_images']:,} images, seed {settings['seed']}. The runs "
        f"began at commit {beginnings(rows)}."
    )
    return markdown(["network", *(NETWORK_METHODS[method] for method in settings["methods"])], lines, note)


def mixture(content: dict[str, Any]) -> list[str]:
    """Return what each method's generators found at the end, mean and range over the seeds."""
    rows, settings = content["result"], content["settings"]
    lines = []
    for method, name in GAME_METHODS.items():
        own = [row for row in rows if row["method"] == method]
        modes, shares = ([row[key] for row in own] for key in ("modes_covered", "high_quality_share"))
        covered = f"{sum(modes) / len(modes):.1f} ({min(modes)} to {max(modes)})"
        lines.append([name, covered, f"{sum(shares) / len(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"])
    note = (
        f"Means and ranges over {len(settings['seeds'])} seeds after {settings['iterations']:,} iterations, width "
        f"{settings['width']}, step size {settings['lr']:g}, gamma {settings['gamma']:g}. Of 2,500 samples, those "
        "within 3 standard deviations of a mode are of high quality; 20 of them cover it."
    )
    return markdown(["method", "modes covered", "share of high-quality samples"], lines, note)


_OF_RUNS = (faults, faults_points, jare_networks, mixture, table1, wgan_gp)
_OF_TIMES = (
    convolution_spectra,
    game_updates,
    guards,
    kernels,
    optimizers,
    polynomials,
    preconditioning_overhead,
    processes,
    scoring,
    throughput,
)
TABLES = {function.__name__: function for function in (*_OF_RUNS, *_OF_TIMES)} | {
    "dualing_box": dualing_box,
    "dualing_cost": dualing_cost,
    "dualing_gaussians": dualing_gaussians,
    "dualing_images": dualing_images,
    "language_model": language_model,
    "mixture_small": mixture,
    "mode_coverage": mode_coverage,
    "mode_coverage_short": mode_coverage_short,
    "operator_normalization": operator_normalization,
    "table1_longer": table1,
    "table1_svd": table1,
    "theorem1": theorem1,
}


def table(name: str) -> str:
    """Return one table and the line that says where it was measured."""
    if name == settings_matrix.__name__:  # nothing is measured
        return "\n".join(settings_matrix())
    content = json.loads((RESULTS / f"{name.removesuffix('_short')}.json").read_text())
    where = content["environment"]
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    source = f"Measured on {where['date']} at commit {where['commit']}: {where['hardware']}, {threads}, {versions}."
    return "\n".join([*TABLES[name](content), "", source])


def main() -> int:
    pattern = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)
    stale = False
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text()
        new = pattern.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[3]}", old)
        stale |= old != new
        if "--check" not in sys.argv:
            page.write_text(new)
    return int(stale and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
