"""The tables of benchmarks/dualing.py and benchmarks/dualing_images.py, in Markdown."""

from typing import Any

from markdown_tables import markdown, spread


def dualing_gaussians(content: dict[str, Any]) -> list[str]:
    """Return medians and ranges over seeds of each setting and method."""
    lines = [
        "| Gaussians, samples | method | modes covered | share of high-quality samples | falls over rises of min f "
        "| intervals in which min f rises |",
        "|---|---|---|---|---|---|",
    ]
    rows, settings = content["result"], content["settings"]
    for modes, fixed, method in dict.fromkeys((r["modes"], r["fixed_samples"], r["method"]) for r in rows):
        own = [r for r in rows if (r["modes"], r["fixed_samples"], r["method"]) == (modes, fixed, method)]
        cells = [f"{modes}, {'the same' if fixed else 'fresh'}", method]
        cells += [
            spread([r["end"]["modes"] for r in own], "g"),
            spread([r["end"]["high_quality"] for r in own], ".2f"),
        ]
        cells += [spread([r["falls"] for r in own], ".2f"), spread([r["rising"] for r in own], ".2f")]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = ", ".join(map(str, sorted({r["seed"] for r in rows})))
    note = (
        f"Medians and ranges over seeds {seeds} after {settings['iterations']:,} iterations, measured every "
        f"{settings['every']}; batch {settings['batch_size']}, C = {settings['weight_decay']:g}, standard deviation "
        f"{settings['standard_deviation']:g}. SGDA with its learning rate in w."
    )
    return [*lines, "", note]


def dualing_box(content: dict[str, Any]) -> list[str]:
    """Return the products of each way, one column for each C and gap."""
    rows = content["result"]
    columns = list(dict.fromkeys((row["decay"], row["gap"]) for row in rows))
    heads = ["way", *(f"C = {decay:g}, gap {gap:g}" for decay, gap in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        found = {(row["decay"], row["gap"]): row["products"] for row in rows if row["way"] == way}
        lines.append("| " + " | ".join([way, *(f"{found[column]:,.0f}" for column in columns)]) + " |")
    return lines


def dualing_cost(content: dict[str, Any]) -> list[str]:
    """Return seconds and memory of an iteration over the alternating GAN's."""
    rows = content["result"]
    reference = rows[0]["peak_mebibytes"]
    lines = ["| method | ms an iteration | ratio to GAN | peak MiB | ratio to GAN |", "|---|---|---|---|---|"]
    for row in rows:
        memory = f"{row['peak_mebibytes']:.0f} | {row['peak_mebibytes'] / reference:.2f}"
        lines.append(f"| {row['method']} | {1e3 * row['seconds']:.0f} | {row['ratio']:.2f} | {memory} |")
    note = f"CNNs of width 16, batch 64, 32 pixels; medians of {content['settings']['rounds']} iterations."
    return [*lines, "", note]


def dualing_images(content: dict[str, Any]) -> list[str]:
    """Return the last scores of each method, medians and ranges over seeds, and each seed's FID."""
    rows, settings = content["result"], content["settings"]
    lines = []
    for data, method in dict.fromkeys((r["data"], r["method"]) for r in rows):
        own = [r for r in rows if (r["data"], r["method"]) == (data, method)]
        label = {"digits": "digit", "cifar10": "classifier"}[data]
        fids, scores = ([r[f"{label}_{score}"] for r in own] for score in ("fid", "score"))
        lines.append(
            [
                "digits" if data == "digits" else "CIFAR-10",
                {"gan": "standard GAN"}.get(method, method),
                f"{1e3 * own[0]['seconds_of_iteration']:.0f}",
                f"{own[0]['planned']:,}" + ("" if all(r["finished"] for r in own) else ", not all finished"),
                spread(fids, ".4g"),
                spread(scores, ".3g"),
                ", ".join(f"{fid:.4g}" for fid in fids),
            ]
        )
    heads = ["data", "method", "ms an iteration", "iterations", "FID", "score", "FID of each seed"]
    seconds = "{:g} s for digits, {:g} s for CIFAR-10".format(*settings["seconds"])
    seeds = ", ".join(map(str, settings["seeds"]))
    note = (
        f"Medians and ranges over seeds {seeds}; equal seconds of a processor: {seconds}; "
        f"CIFAR-10 with widths {settings['width']} and batch 32. Digits: {rows[0]['protocol']} CIFAR-10: "
        f"{rows[-1]['protocol']}"
    )
    return markdown(heads, lines, note)
