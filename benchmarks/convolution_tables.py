"""The tables of benchmarks/convolution_spectra.py and benchmarks/operator_normalization.py, in Markdown."""

from typing import Any

from markdown_tables import markdown, spread

VARIANTS = {
    "matrix": "the reshaped kernel",
    "operator": "the operator, differentiated",
    "operator_held": "the operator, held",
}
COLUMNS = {
    "fid": "classifier FID",
    "score": "classifier score",
    "deviation": "sample deviation",
    "operator_norm": "operator's norm",
    "reshaped_norm": "reshaped norm",
}


def convolution_spectra(content: dict[str, Any]) -> list[str]:
    """Return time, memory and error of the full spectrum, and in words what the norm alone costs."""
    settings, result = content["settings"], content["result"]
    names = {"ours": "half of the frequencies", "float32": "public, float32", "float64": "public, float64"}
    rows = []
    for row in result["spectra"]:
        size = f"{row['channels']} -> {row['channels']}"
        cells = f"{row['seconds']:.2f}", f"{row['time_ratio']:.2f}", f"{row['peak_mebibytes']:.0f}"
        rows.append([size, names[row["method"]], *cells, f"{row['error']:.0e}"])
    shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in result["share_of_step"].items())
    note = (
        f"Error: the largest over the norm, against float64. The norms of all layers in every iteration, as a share of "
        f"a training step of ResNet-32 of width {settings['width']}, batch {settings['batch_size']}: {shares}."
    )
    return markdown(["channels", "method", "seconds", "times ours", "peak MiB", "error"], rows, note)


def operator_normalization(content: dict[str, Any]) -> list[str]:
    """Return what each quarter of the runs measured, medians and ranges over seeds, and the last FID of each seed."""
    settings, rows = content["settings"], content["result"]
    lines = []
    for variant, name in VARIANTS.items():
        series = [row["series"] for row in rows if row["variant"] == variant]
        for iteration in series[0]["fid"]["iteration"]:
            at = [{key: _value(own[key], iteration) for key in COLUMNS} for own in series]
            lines.append([name, str(iteration), *(spread([own[key] for own in at], ".3g") for key in COLUMNS)])
    last = {name: [r["series"]["fid"]["value"][-1] for r in rows if r["variant"] == v] for v, name in VARIANTS.items()}
    told = "; ".join(f"{name} {', '.join(f'{value:.3g}' for value in own)}" for name, own in last.items())
    seeds = ", ".join(map(str, settings["seeds"]))
    note = (
        f"Medians and ranges over seeds {seeds}; widths {settings['width']}, batch 16. "
        f"Norms: of the weights after normalisation, mean over the convolutions. The last FID, seed by seed: {told}. "
        f"Scores: {settings['protocol']}"
    )
    return markdown(["divided by the norm of", "iteration", *COLUMNS.values()], lines, note)


def _value(series: dict[str, list[float]], iteration: int) -> float:
    return series["value"][series["iteration"].index(iteration)]
