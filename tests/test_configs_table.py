"""configs/README.md lists every experiment."""

import re
from collections import Counter
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def expanded(pattern: str) -> list[str]:
    """`a_{b,c}.yaml` -> a_b.yaml, a_c.yaml."""
    head, brace, rest = pattern.partition("{")
    options, _, tail = rest.partition("}")
    return [head + option + tail for option in options.split(",")] if brace else [pattern]


def test_every_experiment_is_in_the_table_once():
    rows = [line for line in (CONFIGS / "README.md").read_text().splitlines() if line.startswith("| ")]
    listed = Counter(
        name for row in rows for pattern in re.findall(r"`([^`]*\.yaml)`", row) for name in expanded(pattern)
    )
    files = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    assert listed == Counter(path.as_posix() for path in files if path.parts[0] != "shared")


def test_an_experiment_has_at_most_seven_lines():
    """What is longer is a piece for configs/shared."""
    for path in [
        path for folder in ("pcgan", "jare", "nsgda", "dualing") for path in (CONFIGS / folder).glob("*.yaml")
    ]:
        assert len(path.read_text().splitlines()) <= 7, path
