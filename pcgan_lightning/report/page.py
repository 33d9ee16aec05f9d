"""`pcgan report`: run folders in, one HTML file out."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pcgan_lightning.report import sections
from pcgan_lightning.report.grids import sample_grids
from pcgan_lightning.report.run_data import Run, not_finite, read_runs
from pcgan_lightning.report.settings import differing_settings, environments, important_settings
from pcgan_lightning.report.tables import results, scored_elsewhere
from pcgan_lightning.runs import write_whole


def report(runs: list[Path], output: Path = Path("report.html")) -> None:
    """Compare runs in one HTML file that needs no network.

    Args:
        runs: run folders of `pcgan fit`.
        output: the file to write; one that is there is replaced.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no ``metrics.csv``.
        ValueError: for no folder, the same one twice, a file that cannot be read, or an output that is a folder.
    """
    if output.is_dir():
        raise ValueError(f"argument `output` must be a file, got the folder {output}")
    page = render(read_runs(runs))
    write_whole(output, page)  # whoever has the page open never sees half of a new one
    print(f"report of {_count(len(runs), 'run')} in {output}", file=sys.stderr)


def render(runs: Sequence[Run]) -> str:
    """Return the page of runs."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = _count
    environment.filters["breakable"] = _breakable
    environment.filters["thousands"] = lambda number: f"{number:,}"
    differing, common = differing_settings(runs)
    stops, pictures, left_out = sample_grids(runs)
    return environment.get_template("page.html.jinja").render(
        runs=runs,
        columns=sections.page_columns(len(runs)),
        results=results(runs),
        scored_elsewhere=scored_elsewhere(runs),
        stops=stops,
        pictures=pictures,
        left_out=left_out,
        differing=differing,
        common=common,
        important=important_settings(common),
        environments=environments(runs),
        not_finite={run.name: not_finite(run) for run in runs},
        **sections.draw(runs),
    )


def _count(number: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _breakable(text: str) -> Markup:
    """Let a dotted name or a path continue on the next line after a dot or a slash."""
    return Markup(re.sub(r"([./])(?=\w)", r"\1<wbr>", str(escape(text))))
