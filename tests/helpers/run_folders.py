"""Run folders as training leaves them, and the page that a report makes of them."""

import csv
import json
from html.parser import HTMLParser

from PIL import Image

from pcgan_lightning.report import report

LAYERS = ("convolutions.2", "convolutions.10", "linear")
LOSS = [{"step": 1, "loss/generator": 1.0}]


def make_run(folder, *, rows=None, config=None, environment=None, evaluations=(), grids=()):
    """Write a run folder; without `rows` three measurements of three layers whose last κ̃ are 4, 3 and 2."""
    folder.mkdir(parents=True)
    rows = spectrum_rows() if rows is None else rows
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({column for row in rows for column in row}))
        writer.writeheader()
        writer.writerows(rows)
    files = {"config.yaml": config, "environment.json": environment}  # JSON is YAML
    for name, content in (files | {f"evaluations/{n}.json": e for n, e in enumerate(evaluations)}).items():
        if content is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content))
    for iteration in grids:
        (folder / "samples").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (iteration % 256, 0, 0)).save(folder / f"samples/iteration_{iteration:07d}.png")
    return folder


def spectrum_rows(last=(4.0, 3.0, 2.0)):
    rows = []
    for step, scale in ((0, 0.5), (1000, 0.75), (2000, 1.0)):
        row = {"step": step}
        conditions = [value * scale for value in last]
        for layer, condition in zip(LAYERS, conditions, strict=True):
            row |= {f"condition/{layer}/after": condition, f"condition/{layer}/before": 2 * condition}
            row |= {f"singular_value/{layer}/smallest_{i}": i / 10 for i in (1, 2, 3)}
        rows.append(row)
        # The summary comes in a row of its own, with a step that reads like a float.
        summary = {"max": conditions[0], "second_max": conditions[1], "mean": sum(conditions) / 3}
        rows.append({"step": f"{step}.0", **{f"condition/{name}": value for name, value in summary.items()}})
    return rows


def preconditioned(kind, **arguments):
    """Return the configuration of a run with such preconditioning."""
    chosen = {"class_path": f"pcgan_lightning.{kind}", "init_args": arguments}
    return {"run_dir": f"somewhere/{kind}", "seed_everything": 0, "preconditioning": chosen}


class Page(HTMLParser):
    """The rows of each section's tables as texts, the text of the sections, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.rows, self.texts = text, [], {}, {}
        self.section, self.cell = "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"]
        elif tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        elif tag in ("td", "th"):
            self.cell = ""
        elif self.cell is not None:
            self.cell += {"b": "*", "sup": "^"}.get(tag, "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[self.section][-1].append(self.cell.replace("\xa0", " ").strip())
            self.cell = None

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if self.cell is not None:
            self.cell += data

    def part(self, section):
        """The source of a section."""
        return self.source.partition(f'id="{section}"')[2].partition("</section>")[0]

    def grids(self):
        """The iteration of each grid, and those of the grids that are seen."""
        grids = [attributes for _, attributes in self.tags if "data-iteration" in attributes]
        seen = [grid for grid in grids if "hidden" not in grid]
        return [[int(grid["data-iteration"]) for grid in some] for some in (grids, seen)]


def page_of(runs, output):
    report(list(runs), output)
    return Page(output.read_text())
