"""The tables of benchmarks/faults.py, in Markdown."""

from collections import Counter
from typing import Any

from markdown_tables import markdown

# What an operation of a run touches, by the beginning of its path; the first that fits.
PLACES = {
    "run/checkpoints": "checkpoints",
    "run/metrics.csv": "`metrics.csv`",
    "run/config": "`config.yaml`",
    "run/environment": "`environment.json`",
    "run/samples": "pictures",
    "run/spectra": "pictures",
    "": "the folder, its lock and the rest",
}


def faults(content: dict[str, Any]) -> list[str]:
    """Return where the kills hit, and how many runs ended as the undisturbed one did."""
    result, settings = content["result"], content["settings"]
    kinds = ("before the first checkpoint", "between checkpoints")
    kinds += ("while a checkpoint was written", "after the last iteration")

    def kind_of(where: dict[str, Any]) -> str:
        if any(name.endswith(".part") for name in where["checkpoints"]):
            return kinds[2]
        if not where["checkpoints"]:
            return kinds[0]
        return kinds[3] if where["iteration"] == settings["iterations"] else kinds[1]

    kills = [(kind_of(where), not run["differences"]) for run in result["runs"] for where in run["kills"]]
    ends = {kind: [same for found, same in kills if found == kind] for kind in kinds}
    rows = [[kind, str(len(same)), str(sum(same))] for kind, same in ends.items()]
    rows.append(["in all", str(result["kills"]), f"{result['survived']} of {result['kills']}"])
    note = (
        f"{len(result['runs'])} runs of {settings['iterations']} iterations on digits, killed "
        f"{max(len(run['kills']) for run in result['runs'])} times at most, seed {settings['seed']}."
    )
    return markdown(["killed", "kills", "ended bit-identical"], rows, note)


def faults_points(content: dict[str, Any]) -> list[str]:
    """Return what the operations of a run touched, and how many of the kills there ended as the undisturbed run did."""
    result = content["result"]
    different = {int(number) for number in result["different"]}
    kinds: Counter[tuple[str, str]] = Counter()
    points: Counter[str] = Counter()
    same: Counter[str] = Counter()
    for number, operation in enumerate(result["operations"]):
        name, path = operation.split(" ", 1)
        place = next(said for beginning, said in PLACES.items() if path.startswith(beginning))
        kinds[place, name] += 1
        points[place] += 1
        same[place] += number not in different
    rows = []
    for place in dict.fromkeys(PLACES.values()):
        names = ", ".join(f"{name} {count}" for (where, name), count in kinds.items() if where == place)
        rows.append([place, names, str(points[place]), str(same[place])])
    rows.append(["in all", "", str(points.total()), f"{same.total()} of {points.total()}"])
    note = (
        f"A run of {content['settings']['iterations']} iterations, killed right before each operation, at a write when "
        f"half of it was in the file: {len(result['killed'])} times by SIGKILL, otherwise by a copy of the folder at "
        f"that moment. {result['resumed']} different contents, each started again."
    )
    return markdown(["file", "operations", "points", "ended bit-identical"], rows, note)
