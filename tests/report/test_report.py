import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from pcgan_lightning.report import draw_condition_numbers, draw_singular_values, report
from pcgan_lightning.report.charts import spans, thin, windows
from pcgan_lightning.report.run_data import read_runs
from pcgan_lightning.report.tables import final_scores, format_numbers, results, score_title

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LAYERS = ("convolutions.2", "convolutions.10", "linear")


def make_run(folder, *, rows=None, config=None, environment=None, evaluations=(), grids=()):
    """Write a run folder; without `rows` three measurements of three layers whose last κ̃ are 4, 3 and 2."""
    folder.mkdir(parents=True)
    rows = spectrum_rows() if rows is None else rows
    columns = sorted({column for row in rows for column in row})
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if config is not None:
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    for number, evaluation in enumerate(evaluations):
        (folder / "evaluations").mkdir(exist_ok=True)
        (folder / "evaluations" / f"{number}.json").write_text(json.dumps(evaluation))
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
    return {
        "run_dir": f"somewhere/{kind}",
        "seed_everything": 0,
        "preconditioning": {"class_path": f"pcgan_lightning.{kind}", "init_args": arguments},
    }


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
        elif tag == "b" and self.cell is not None:
            self.cell += "*"
        elif tag == "sup" and self.cell is not None:
            self.cell += "^"

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[self.section][-1].append(self.cell.replace("\xa0", " ").strip())
            self.cell = None

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if self.cell is not None:
            self.cell += data


def page_of(runs, output):
    report(list(runs), output)
    return Page(output.read_text())


def test_table_of_results(tmp_path):
    protocol = "1,000 images against 2,000."
    sn = make_run(
        tmp_path / "a_sn",
        config=preconditioned("FixedPreconditioning", degree=1),
        evaluations=[{"scores": {"classifier_fid": 20.0, "precision": 0.7}, "protocol": protocol, "iteration": 2000}],
    )
    fpc = make_run(
        tmp_path / "b_fpc",
        rows=spectrum_rows((2.0, 1.5, 1.0)),
        config=preconditioned("FixedPreconditioning", degree=3),
        evaluations=[{"scores": {"classifier_fid": 12.345, "precision": 0.6}, "protocol": protocol, "iteration": 2000}],
    )
    page = page_of([sn, fpc], tmp_path / "report.html")
    assert page.rows["results"] == [
        ["run", "method", "iterations", "classifier FID ↓", "precision ↑", "max κ̃ ↓", "second max κ̃ ↓", "mean κ̃ ↓"],
        ["a_sn", "SN", "2,000", "20.00", "*0.700", "4.00", "3.00", "3.00"],
        ["b_fpc", "FPC-3", "2,000", "*12.35", "0.600", "*2.00", "*1.50", "*1.50"],
    ]
    assert f"Scores: {protocol}" in page.texts["results"]
    assert not re.search(r"(?<!classifier )FID", page.texts["results"])


def test_only_what_can_be_compared_is_bold(tmp_path):
    one, two = (
        make_run(tmp_path / name, rows=rows, evaluations=[{"scores": {"fid": fid}, "protocol": f"{name} images."}])
        for name, fid, rows in (
            ("one", 20.0, spectrum_rows()),
            ("two", 10.0, [{"step": 5, "condition/other/after": 1.0, "condition/max": 1.0}]),
        )
    )
    page = page_of([one, two], tmp_path / "report.html")
    assert [row[3:5] for row in page.rows["results"][1:]] == [["20.00^1", "4.00"], ["10.00^2", "1.00"]]
    assert "Scores of different protocols cannot be compared" in page.texts["results"]


@pytest.mark.parametrize("protocol", ["", None])
def test_scores_without_a_recorded_protocol_are_not_compared(tmp_path, protocol):
    found = read_runs(
        [make_run(tmp_path / str(n), evaluations=[{"scores": {"fid": float(n)}, "protocol": protocol}]) for n in (1, 2)]
    )
    assert not any(cells[0].best for *_, cells in results(found)["rows"])


def test_final_scores_are_those_of_the_newest_evaluation(tmp_path):
    old = {"scores": {"fid": 1.0, "kid": 1.0}, "protocol": "P.", "iteration": 1000, "date": "2025-01-01"}
    new = {"scores": {"fid": 2.0}, "protocol": "Iteration 2,000, p.", "iteration": 2000, "date": "2025-01-02"}
    other = {"scores": {"classifier_fid": 3.0}, "protocol": "Q.", "iteration": 2000, "date": "2025-01-01"}
    folders = [
        make_run(tmp_path / "evaluated", evaluations=[new, other, old]),
        make_run(tmp_path / "trained", rows=[{"step": 1, "metric/fid": 9.0}, {"step": 2, "metric/fid": 8.0}]),
    ]
    evaluated, trained = map(final_scores, read_runs(folders))
    assert evaluated == {"fid": (2.0, "P."), "classifier_fid": (3.0, "Q.")}
    assert trained == {"fid": (8.0, "")}


def test_evaluations_without_a_date_are_ordered_by_iteration(tmp_path):
    """And scores of an earlier checkpoint than the last say so."""
    evaluations = [{"scores": {"fid": float(i)}, "protocol": "P.", "iteration": i} for i in (900, 1500, 1200)]
    folder = make_run(tmp_path / "run", evaluations=evaluations)
    (run,) = read_runs([folder])
    assert final_scores(run) == {"fid": (1500.0, "P.")}
    assert "run was scored at iteration 1,500." in page_of([folder], tmp_path / "report.html").texts["results"]


def test_methods(tmp_path):
    configs = {
        "SN": preconditioned("FixedPreconditioning", degree=1),
        "FPC-7": preconditioned("FixedPreconditioning", degree=7),
        "APC": preconditioned("AdaptivePreconditioning"),
        "Other": {"preconditioning": {"class_path": "elsewhere.Other"}},
        "none": {"preconditioning": None},
        "none ": {"trainer": {"max_steps": 1}},
        "–": None,  # noqa: RUF001
    }
    runs = read_runs([make_run(tmp_path / str(n), config=config) for n, config in enumerate(configs.values())])
    assert [row[1] for row in results(runs)["rows"]] == [method.strip() for method in configs]


def test_score_titles():
    titles = {
        "fid": ("FID", "↓"),
        "inception_score": ("Inception score", "↑"),
        "classifier_fid": ("classifier FID", "↓"),
        "classifier_score": ("classifier score", "↑"),
        "classifier_kid": ("classifier KID", "↓"),
        "my_classifier_recall": ("my classifier recall", "↑"),
        "sharpness": ("sharpness", ""),
    }
    assert {name: score_title(name) for name in titles} == titles


def test_numbers_share_their_decimals():
    assert format_numbers([1.5, 12.0, None]) == ["1.50", "12.00", "–"]  # noqa: RUF001
    assert format_numbers([0.0123, 2.0]) == ["0.0123", "2.0000"]
    assert format_numbers([12345.6, math.inf, math.nan]) == ["12,346", "∞", "NaN"]


def test_settings_that_differ(tmp_path):
    first = make_run(tmp_path / "first", config=preconditioned("FixedPreconditioning", degree=1, layers="all"))
    second = make_run(tmp_path / "second", config=preconditioned("FixedPreconditioning", degree=3, layers="all"))
    third = make_run(tmp_path / "third")
    page = page_of([first, second, third], tmp_path / "report.html")
    differing, common = page.rows["settings"][:2], page.rows["settings"][2:]
    assert differing == [["", "first", "second", "third"], ["preconditioning.init_args.degree", "1", "3", "–"]]  # noqa: RUF001
    assert ["preconditioning.init_args.layers", "all"] in common
    assert "third has no config.yaml" in page.texts["settings"]
    assert "run_dir" not in page.source


def test_a_single_run_shows_its_important_settings(tmp_path):
    config = {**preconditioned("AdaptivePreconditioning", history=5), "progress": {"refresh_every_n_steps": 10}}
    page = page_of([make_run(tmp_path / "run", config=config)], tmp_path / "report.html")
    shown = page.rows["settings"]
    important = [
        ["seed_everything", "0"],
        ["preconditioning.class_path", "pcgan_lightning.AdaptivePreconditioning"],
        ["preconditioning.init_args.history", "5"],
    ]
    assert shown == [*important, *important, ["progress.refresh_every_n_steps", "10"]]


def test_degrees_over_iterations(tmp_path):
    rows = [{"step": s, "degree/a": float(a), "degree/b": 1.0} for s, a in ((0, 1), (100, 1), (200, 9), (300, 3))]
    run = make_run(tmp_path / "apc", rows=[*rows, {"step": 400, "loss/generator": 1.0}])
    page = page_of([run, make_run(tmp_path / "sn")], tmp_path / "report.html")
    legend = re.findall(r"degree \d", page.texts["degrees"])
    assert legend == ["degree 1", "degree 3", "degree 9"]
    section = page.source[page.source.index('id="degrees"') :]
    section = section[: section.index("</section>")]
    assert [section.count(f"fill: {color}") for color in ("#e3e9ef", "#a8d5d0", "#55a9b5", "#27356b")] == [2, 1, 0, 1]
    (found, _) = read_runs([run, tmp_path / "sn"])
    assert spans(found.series["degree/a"], found.iterations) == [(0, 200, 1), (200, 300, 9), (300, 400, 3)]


def test_layers_are_in_natural_order_and_steps_merge(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "run")])
    assert run.layers(r"condition/(.+)/after") == list(LAYERS)
    steps, values = run.series["condition/max"]
    assert (steps.tolist(), values.tolist()) == ([0, 1000, 2000], [2.0, 3.0, 4.0])


def test_long_lines_are_thinned_and_losses_averaged():
    steps = np.arange(100_000)
    thinned, _ = thin((steps, steps))
    assert len(thinned) == 200
    assert (thinned[0], thinned[-1]) == (0, 99_999)
    ends, low, mean, high = windows((steps, steps % 10))
    assert len(ends) == 100
    assert ends[-1] == 99_999
    np.testing.assert_allclose([low[0], mean[0], high[0]], [np.percentile(range(10), 10), 4.5, 8.1], atol=0.2)
    assert [part.tolist() for part in windows((steps[:3], steps[:3] * 2))] == [[0, 1, 2], *[[0, 2, 4]] * 3]


def test_hardware_and_speed(tmp_path):
    rows = [{"step": step, "iterations_per_second": speed} for step, speed in ((0, 1.0), (10, 4.0), (3600, 5.0))]
    environment = {"hardware": "2 cores", "versions": {"torch": "2.6.0"}, "commit": "abc"}
    page = page_of([make_run(tmp_path / "run", rows=rows, environment=environment)], tmp_path / "report.html")
    assert page.rows["environment"] == [
        ["", "run"],
        ["hardware", "2 cores"],
        ["commit", "abc"],
        ["torch", "2.6.0"],
        ["iterations per second (median)", "4"],
        ["wall-clock, by that speed", "about 15.0 min"],
    ]


def test_sample_grids(tmp_path):
    long = make_run(tmp_path / "long", grids=range(0, 2400, 100))
    short = make_run(tmp_path / "short", grids=[0, 1000])
    page = page_of([long, short], tmp_path / "report.html")
    grids = [attributes for tag, attributes in page.tags if tag == "div" and "data-iteration" in attributes]
    iterations = [int(grid["data-iteration"]) for grid in grids]
    assert len(iterations) == 12 + 2
    assert (iterations[0], iterations[11]) == (0, 2300)
    assert iterations[12:] == [0, 1000]
    # Without the script the last grid of each run is seen.
    assert [int(grid["data-iteration"]) for grid in grids if "hidden" not in grid] == [2300, 1000]
    assert "12 grids left out" in page.texts["samples"]
    addresses = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    picture = Image.open(io.BytesIO(base64.b64decode(addresses[-1].removeprefix("data:image/png;base64,"))))
    assert picture.getpixel((0, 0)) == (1000 % 256, 0, 0)


def test_large_grids_are_made_smaller(tmp_path):
    run = make_run(tmp_path / "run", grids=[5])
    noise = np.random.default_rng(0).integers(0, 256, (900, 1800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run / "samples/iteration_0000005.png")
    page = page_of([run], tmp_path / "report.html")
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert (image["width"], image["height"]) == ("640", "320")
    assert image["src"].startswith("data:image/jpeg;base64,")


def test_missing_parts_are_said(tmp_path):
    page = page_of([make_run(tmp_path / "run", rows=[{"step": 1, "loss/generator": 1.0}])], tmp_path / "report.html")
    sentences = {
        "scores": "No run measured scores",
        "samples": "No run has sample grids",
        "spectra": "No run measured singular values",
        "conditions": "No run measured condition numbers",
        "settings": "No run has a config.yaml",
        "environment": "Not recorded",
    }
    assert [section for section, text in sentences.items() if text not in page.texts[section]] == []
    assert "degrees" not in page.texts
    page = page_of([make_run(tmp_path / "scored", rows=[{"step": 0, "metric/fid": 7.0}])], tmp_path / "report.html")
    assert "No run logged losses" in page.texts["losses"]
    # One measurement is seen.
    section = page.source[page.source.index('id="scores"') : page.source.index('id="samples"')]
    assert re.search(r"<title>scored</title>.*?<use [^>]*fill: #0072b2", section, re.DOTALL)


def test_values_that_are_not_finite(tmp_path):
    names = (
        "loss/generator",
        "metric/fid",
        "degree/a",
        "condition/max",
        "condition/a/after",
        "singular_value/a/smallest_1",
    )
    values = (math.nan, math.inf, -math.inf, 0.0, 2.0, math.inf)
    rows = [{"step": step, **dict.fromkeys(names, value)} for step, value in enumerate(values)]
    page = page_of([make_run(tmp_path / "run", rows=rows)], tmp_path / "report.html")
    assert "run: 24 values not finite" in page.texts[""]
    assert page.rows["results"][1][-1] == "∞"
    paths = [attributes["d"] for tag, attributes in page.tags if tag == "path"]
    assert paths
    assert not [path for path in paths if re.search("nan|inf", path)]


def test_names_are_escaped_and_told_apart(tmp_path):
    rows = [{"step": 0, "degree/<i>$x$": 1.0, "condition/<i>$x$/after": 1.0, "metric/<u>": 1.0}]
    runs = [make_run(tmp_path / parent / "<b>x", rows=rows) for parent in ("one", "two")]
    page = page_of(runs, tmp_path / "report.html")
    assert [row[0] for row in page.rows["results"][1:]] == ["one/<b>x", "two/<b>x"]
    assert not {"i", "u"} & {tag for tag, _ in page.tags}
    assert "<b>x" not in page.source
    assert "<i>$x$" in page.texts["degrees"]


def test_page_asks_for_nothing_and_has_unique_ids(tmp_path):
    runs = [make_run(tmp_path / name, grids=[0]) for name in "abc"]
    page = page_of(runs, tmp_path / "report.html")
    assert page_of(runs, tmp_path / "again.html").source == page.source  # the same input gives the same page
    # Addresses of a page: those inside it (#...), and data.
    wanted = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "xlink:href", "data") if key in a]
    wanted += re.findall(r"url\(([^)]*)\)", page.source)
    assert [address for address in wanted if not address.startswith(("#", "data:"))] == []
    assert "@import" not in page.source
    assert "http" not in page.source.replace("http-equiv", "")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(set(ids)) == sorted(ids)
    assert {address[1:] for address in wanted if address.startswith("#")} <= set(ids)


def test_output_is_made_and_replaced(tmp_path, capsys):
    run = make_run(tmp_path / "run", rows=[{"step": 1, "loss/generator": 1.0}])
    output = tmp_path / "new/folder/report.html"
    for _ in range(2):
        report([run], output)
        assert capsys.readouterr().err == f"report of 1 run in {output}\n"
        assert [path.name for path in output.parent.iterdir()] == ["report.html"]
        assert output.read_text().startswith("<!DOCTYPE html>")
        output.write_text("old")
    with pytest.raises(ValueError, match="argument `output` must be a file, got the folder"):
        report([run], output.parent)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    run = make_run(tmp_path / "run", rows=[{"step": 1, "loss/generator": 1.0}])
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report([run], tmp_path / "new/report.html")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "argument `runs` must hold measurements, got .*/run/metrics.csv without any"),
        ("step,loss/generator\n", "must hold measurements"),
        ("loss/generator\n1.0\n", "must hold readable metrics, got .*/run/metrics.csv: no column 'step'"),
        ("step,loss/generator\n1,abc\n", "must hold readable metrics, got .*/run/metrics.csv: .*'abc'"),
        ("step,loss/generator\n1,2,3\n", "must hold readable metrics"),
        (b"\xff\xfe\x00", "must hold readable metrics"),
    ],
)
def test_unreadable_metrics(tmp_path, content, message):
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        report([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [\n"),
        ("config.yaml", "just text"),
        ("environment.json", "{"),
        ("evaluations/0.json", "[]"),
        ("samples/iteration_0000000.png", "no picture"),
    ],
)
def test_unreadable_files(tmp_path, name, content):
    run = make_run(tmp_path / "run", evaluations=[{}], grids=[0])
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rf"argument `runs` must hold readable .*, got .*/run/{name}") as caught:
        report([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_wrong_folders(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="argument `runs` must name at least one run folder, got none"):
        report([], tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"argument `runs` must name each run once, got .*/run twice"):
        report([run, tmp_path / "empty/../run"], tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match=r"argument `runs` must be run folders, got .*/absent"):
        report([run, tmp_path / "absent"], tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match=r"must be folders with a metrics.csv, got .*/empty without one"):
        report([run, tmp_path / "empty"], tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on PATH")
def test_page_in_a_browser(tmp_path):
    """The script moves the slider's label to the last iteration, and nothing is reported on the console."""
    runs = [make_run(tmp_path / "<b>x", grids=[0, 1000, 2000]), make_run(tmp_path / "y", grids=[1000])]
    output = tmp_path / "report.html"
    report(runs, output)
    # As if the reader had moved the slider to the first stop.
    moved = tmp_path / "moved.html"
    script = 'slider.value = 0; slider.dispatchEvent(new Event("input"));'
    moved.write_text(output.read_text().replace("</script>", f"{script}</script>"))
    for path, label, shown in ((output, "iteration 2,000", [2000, 1000]), (moved, "iteration 0", [0, 1000])):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "CONSOLE" not in result.stderr
        page = Page(result.stdout)
        assert re.search(r"<output[^>]*>([^<]*)<", result.stdout)[1] == label
        grids = [attributes for tag, attributes in page.tags if "data-iteration" in attributes]
        assert [int(grid["data-iteration"]) for grid in grids if "hidden" not in grid] == shown
        (slider,) = [attributes for tag, attributes in page.tags if attributes.get("class") == "slider"]
        assert "hidden" not in slider


def test_figures_hold_what_was_measured():
    """Figures 1 and 2 as the page and a run's pictures draw them: all values, the smallest darkest, 'before' dotted."""
    iterations, figure = np.arange(0, 30, 10), Figure()
    axes = figure.subplots(1, 3)
    lines = {"smallest 1": (iterations, np.array([0.1, 0.2, np.nan])), "smallest 2": (iterations, np.full(3, 0.5))}
    draw_singular_values(axes, {"first": lines, "last": lines}, highest=1.2)
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["first", "last"]
    assert figure.axes == list(axes[:2]), "an axis without a layer is removed"
    second, first = axes[0].lines
    assert first.get_xydata().tolist() == [[0, 0.1], [10, 0.2]]
    assert second.get_xydata().tolist() == [[0, 0.5], [10, 0.5], [20, 0.5]]
    assert sum(to_rgb(first.get_color())) < sum(to_rgb(second.get_color()))
    axis = Figure().subplots()
    stages = {"before": (iterations, np.array([9.0, 8.0, 7.0])), "after": lines["smallest 2"]}
    draw_condition_numbers(axis, {"first": stages})
    before, after = axis.lines
    assert before.get_ydata().tolist() == [9, 8, 7]
    assert (before.is_dashed(), after.is_dashed(), after.get_label()) == (True, False, "first")
    assert axis.get_ylim()[1] > 9
