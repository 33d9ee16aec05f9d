"""Which charts the report draws, and their headings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context

from pcgan_lightning.report import charts
from pcgan_lightning.report.drawing import layer_colors
from pcgan_lightning.report.run_data import Run, finite, natural_order
from pcgan_lightning.report.svg import SETTINGS
from pcgan_lightning.report.tables import CONDITIONS, score_order, score_title

LOSSES = {
    "loss/discriminator": "Discriminator's loss",
    "loss/generator": "Generator's loss",
    "score/real": "Discriminator's mean output, real images",
    "score/fake": "Discriminator's mean output, generated images",
}


@dataclass(frozen=True)
class Panel:
    """A chart with its heading; the colour is that of the run, or empty for a chart of all runs."""

    heading: str
    svg: Markup
    color: str = ""


def page_columns(runs: int) -> int:
    """Return in how many columns the page sets the panels of so many runs."""
    return {1: 1, 2: 2, 4: 2}.get(runs, 3)


def draw(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the panels of each section, and what their legends need; a section without data has none."""
    with rc_context(SETTINGS):
        return {
            "scores": _scores(runs),
            "spectra": _spectra(runs),
            "conditions": _conditions(runs),
            "condition_summary": _shared(runs, CONDITIONS),
            "degrees": _degrees(runs),
            "losses": [
                Panel(heading, Markup(charts.loss_chart(runs, column, heading)))
                for column, heading in LOSSES.items()
                if any(column in run.series for run in runs)
            ],
            "bands": len(runs) <= charts.MAXIMUM_BANDS,
            "layer_colors": _layer_colors(runs),
            "degree_colors": {degree: charts.degree_color(degree) for degree in _used_degrees(runs)},
        }


def _scores(runs: Sequence[Run]) -> list[Panel]:
    names = {c.removeprefix("metric/") for run in runs for c in run.series if c.startswith("metric/")}
    return _shared(runs, {f"metric/{n}": " ".join(score_title(n)).strip() for n in sorted(names, key=score_order)})


def _shared(runs: Sequence[Run], headings: dict[str, str]) -> list[Panel]:
    """Return a panel of all runs for each column that one of them has."""
    return [
        Panel(heading, Markup(charts.run_chart(runs, column, heading)))
        for column, heading in headings.items()
        if any(column in run.series for run in runs)
    ]


def _spectra(runs: Sequence[Run]) -> list[Panel]:
    highest = max(1.1, 1.05 * charts.highest_value(runs, charts.SMALLEST))
    columns = page_columns(len(runs))
    found = [(run, run.layers(charts.SMALLEST)) for run in runs]
    return [
        Panel(run.name, Markup(charts.spectrum_chart(run, layers, highest, columns)), run.color)
        for run, layers in found
        if layers
    ]


def _conditions(runs: Sequence[Run]) -> list[Panel]:
    highest = charts.highest_value(runs, charts.CONDITION)
    colors, columns = _layer_colors(runs), page_columns(len(runs))
    return [
        Panel(run.name, Markup(charts.condition_chart(run, colors, highest, columns)), run.color)
        for run in runs
        if run.layers(charts.CONDITION)
    ]


def _degrees(runs: Sequence[Run]) -> list[Panel]:
    columns = page_columns(len(runs))
    return [
        Panel(run.name, Markup(charts.degree_chart(run, columns)), run.color)
        for run in runs
        if run.layers(charts.DEGREE)
    ]


def _layer_colors(runs: Sequence[Run]) -> dict[str, str]:
    layers = {layer for run in runs for layer in run.layers(charts.CONDITION)}
    return layer_colors(sorted(layers, key=natural_order))


def _used_degrees(runs: Sequence[Run]) -> list[int]:
    columns = [run.series[f"degree/{layer}"] for run in runs for layer in run.layers(charts.DEGREE)]
    return sorted({int(degree) for column in columns for degree in finite(column)[1]})
