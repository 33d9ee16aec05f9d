"""The tables of benchmarks/table1.py and table2.py, in Markdown."""

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any, Optional

from markdown_tables import markdown
from scipy import stats

METHODS = {
    "sn": "SN",
    "fpc3": "FPC-3",
    "fpc7": "FPC-7",
    "fpc17": "FPC-17",
    "apc": "APC",
    "apc-goal": "APC, goal 5",
    "svd": "SVD",
}
# Tables 1 and 2, (1, 1) updates: FID; max, second max and mean modified condition number.
PUBLISHED = {
    "cifar10": {
        "sn": (77.82, 113.55, 19.46, 17.77),
        "fpc3": (20.09, 22.65, 1.88, 3.16),
        "fpc7": (19.31, 9.88, 1.32, 1.85),
        "apc": (19.53, 12.06, 2.81, 3.19),
    },
    "stl10": {
        "sn": (147.90, 217.06, 167.97, 53.37),
        "fpc3": (33.99, 23.75, 22.35, 4.36),
        "fpc7": (34.28, 2.55, 2.72, 1.53),
        "apc": (34.08, 6.79, 6.47, 3.90),
    },
    "lsun_bedroom_128": {
        "sn": (53.48, 5.00, 2.20, 2.14),
        "fpc3": (51.05, 1.23, 1.15, 1.09),
        "apc": (45.32, 2.75, 2.40, 1.82),
        "svd": (50.92, 1.75, 1.55, 1.46),
    },
    "lsun_bedroom_256": {
        "sn": (81.09, 26.19, 6.02, 6.45),
        "fpc3": (35.61, 3.04, 2.03, 1.64),
        "apc": (31.17, 4.35, 2.80, 2.18),
        "svd": (36.89, 2.76, 2.18, 1.82),
    },
    "lsun_living_room_256": {
        "sn": (193.75, 66.87, 9.86, 13.54),
        "fpc3": (28.20, 2.95, 2.91, 1.64),
        "apc": (28.29, 3.99, 3.63, 2.23),
        "svd": (32.79, 2.00, 1.95, 1.60),
    },
    "lsun_tower_256": {
        "sn": (33.10, 12.75, 3.48, 3.50),
        "fpc3": (30.81, 2.43, 1.45, 1.33),
        "apc": (29.58, 3.38, 2.53, 1.91),
        "svd": (35.05, 2.83, 2.36, 1.85),
    },
}
# By the data set's first word: widths (of LSUN the authors tell channels at 4x4), and where step sizes decay.
PAPER = {
    "cifar10": ("widths 256/128", "second half"),
    "stl10": ("widths 64/64", "last quarter"),
    "lsun": ("512 channels at 4x4", "last three quarters"),
}
CONDITIONS = ("max", "second_max", "mean")


def table1(content: dict[str, Any]) -> list[str]:
    """Return means and standard deviations over seeds beside the published table, and in words how they differ."""
    rows, settings = content["result"], content["settings"]
    scores = [key for key in rows[0] if key.endswith(("fid", "_score", "kid"))]
    heads = [
        "method",
        "betas",
        "seeds",
        *map(head, scores),
        "max",
        "second max",
        "mean",
        "published: FID; max, second, mean",
    ]
    published = PUBLISHED[settings["dataset"]] if settings["updates"] == "1-1" else {}
    lines = []
    for betas in settings["betas"]:
        for method in settings["methods"]:
            own = [r for r in rows if r["method"] == method and tuple(r["betas"]) == tuple(betas)]
            cells = [METHODS[method], "{:g}, {:g}".format(*betas), str(len(own))]
            cells += [spread([r[key] for r in own]) for key in (*scores, *CONDITIONS)]
            lines.append([*cells, "; ".join(map(numbers, split(published.get(method))))])
    return markdown(heads, lines, *comparisons(rows, scores[0]), note(rows, settings))


def head(score: str) -> str:
    """Return the head of a column of scores."""
    return score.replace("_", " ").replace("fid", "FID").replace("kid", "KID")


def spread(values: list[float]) -> str:
    """Return mean and standard deviation, the mean alone of one value."""
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def split(published: Optional[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return [published[:1], published[1:]] if published else []


def numbers(values: Iterable[float]) -> str:
    return ", ".join(map(str, values))


def comparisons(rows: list[dict[str, Any]], score: str) -> list[str]:
    """Return each method's paired differences from SN in a score, with the p-value of a signed-rank test."""
    found = {(r["method"], (*r["betas"], r["seed"])): r[score] for r in rows}
    told = []
    for method in METHODS:
        keys = [key for name, key in found if name == method and ("sn", key) in found]
        pairs = [(found[method, key], found["sn", key]) for key in keys]
        if method != "sn" and len(pairs) > 2:
            lower, test = sum(a < b for a, b in pairs), stats.wilcoxon(*zip(*pairs, strict=True))
            difference = mean(a - b for a, b in pairs)
            told.append(
                f"{METHODS[method]} {difference:+.2f} (lower in {lower} of {len(pairs)}, p = {test.pvalue:.2g})"
            )
    if not told:
        return []
    return [
        f"{head(score)} minus SN's, mean over pairs of equal seed and betas, and the two-sided Wilcoxon signed-rank "
        f"test: {', '.join(told)}."
    ]


def note(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Return in words how these runs differ from the published ones."""
    widths = "/".join(map(str, settings["widths"])) if settings["widths"] else "of the configuration"
    published, decay = PAPER[settings["dataset"].partition("_")[0]]
    text = (
        f"Here: {settings['dataset']}, ({settings['updates'].replace('-', ', ')}) updates, widths {widths}, batch "
        f"{settings['batch_size']}, {settings['iterations']:,} iterations at most; the last scores and condition "
        "numbers of each run, mean and standard deviation over seeds, condition numbers after the polynomial. "
        f"Published: {published}, batch 64, 200,000 iterations, FID with Inception features. APC's interval and the "
        f"horizon of the generator's average keep their share of the run: {settings['apc_interval']:,} and "
        f"{settings['iterations'] / 20:,.0f} iterations. So does the linear decay of the step sizes, over the "
        f"{decay}. The averaged generator is scored."
    )
    if settings["accelerate"]:
        text += " Here in bf16 autocast, compiled, with fused Adam."
    began = ", ".join(sorted({f"{row['commit']} with {row['threads']} thread(s) each" for row in rows}))
    return f"{text} The runs began at commit {began}. Scores here: {settings['protocol']}"
