"""The report: one self-contained, safe file without network requests, which a browser draws without errors."""

import json
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import processes
import pytest
import torch
from plotly.offline import get_plotlyjs
from test_figures import FUNCTIONS, record_grokking

import grokinterp as gi
from grokinterp.cli import main
from grokinterp.report.page import write_output
from grokinterp.report.plots import FIGURES
from grokinterp.report.sections import definition_of, facts, lead, warnings
from grokinterp.statistics import Outcome
from grokinterp.statistics.formatting import number
from grokinterp.training.recorder import Recorder

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script>".replace("/", "∕")  # a slash cannot be part of a folder's name
IN_REPORT = {function.__name__ for functions in FIGURES.values() for function in functions}
VOID = {"meta", "br", "wbr", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """The text and tags of a page; raises if elements are not closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.texts).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def grokked(tmp_path_factory) -> gi.Analysis:
    return gi.analyze(record_grokking(tmp_path_factory.mktemp("runs") / "grokked"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> gi.Analysis:
    with Recorder(tmp_path_factory.mktemp("runs") / EVIL, gi.Task.of("x^3+xy", 7)) as recorder:
        recorder.record(500, torch.randn(49, 7, generator=torch.Generator().manual_seed(0)))
    return gi.analyze(recorder.run)


@pytest.fixture(scope="module")
def page(grokked) -> Page:
    return Page(gi.write_report(grokked))


def test_the_report_is_written_into_the_run_and_is_reproducible(grokked, page):
    path = gi.write_report(grokked)
    assert path == grokked.run.path / "analysis" / "report.html"
    assert path.read_text(encoding="utf-8") == page.source
    assert not [file.name for file in path.parent.iterdir() if file.name.endswith(".tmp")]


def test_the_path_can_be_chosen(grokked, tmp_path):
    path = gi.write_report(grokked, str(tmp_path / "new" / "folder" / "mine.html"))
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_path_that_cannot_be_written_is_a_run_error(grokked, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(gi.RunError, match="cannot create"):
        gi.write_report(grokked, tmp_path / "file" / "report.html")


@pytest.mark.parametrize("write", [write_output, lambda path, text: main(["report", "run", "--output", str(path)])])
@pytest.mark.parametrize("name", ["pipe", "link", "folder", "", "/", ".."])
def test_only_regular_files_are_replaced(name, write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")  # stands for every kind of device
    Path("file").write_text("mine")
    Path("link").symlink_to("file")
    Path("folder").mkdir()
    before = {path: path.lstat().st_ino for path in Path().iterdir()}
    try:
        status = write(Path(name), "text")
    except gi.RunError as error:
        status, message = 2, str(error)
    else:
        message = capsys.readouterr().err
    assert status == 2
    assert "has no file name" in message or "is not a regular file, so it is not replaced" in message
    assert {path: path.lstat().st_ino for path in Path().iterdir()} == before
    assert Path("file").read_text() == "mine"


def test_an_empty_list_is_an_error():
    with pytest.raises(gi.ConfigError, match="no analysis"):
        gi.write_report([])


def test_the_page_is_well_formed_and_has_one_plotly(page):
    assert page.open == []
    assert page.source.count(get_plotlyjs()[:200]) == 1
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    anchors = [str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"]
    assert anchors
    assert set(anchors) <= set(ids)


def test_nothing_is_loaded_from_the_network(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not {"src", "srcset", "data", "action"} & set(attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    source = page.source.replace(get_plotlyjs(), "")
    for text in ("http:", "https:", "@import", "url("):
        assert text not in source
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_every_figure_has_data_and_a_caption(page, grokked):
    blocks = {a["data-for"] for t, a in page.tags if t == "script" and "data-for" in a}
    plots = {a["id"] for t, a in page.tags if t == "div" and a.get("class") == "plot"}
    assert blocks == plots == IN_REPORT - {"neuron_logit_spectrum"}  # a recorded run has no neurons
    contents = [json.loads(text) for text in page.scripts if text.startswith("{")]
    assert len(contents) == len(plots)
    assert "Neuron-logit spectrum at the end" in page.text
    assert "the snapshot was made without neurons" in page.text
    for name in IN_REPORT - {"neuron_logit_spectrum"}:
        assert " ".join(str(FUNCTIONS[name].__doc__).split())[:60] in page.text


def test_the_first_figure_comes_before_the_tables(page):
    kinds = [(tag, a.get("id", "")) for tag, a in page.tags if tag in ("table", "div") and a.get("class") != "table"]
    assert ("div", "overview") in kinds[:2]


def test_figures_have_text_alternatives_and_buttons_for_the_keyboard(page):
    plots = [a for tag, a in page.tags if tag == "div" and a.get("class") == "plot"]
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in plots)
    groups = [a for tag, a in page.tags if tag == "div" and a.get("class") == "steps"]
    assert len(groups) == len(plots)
    assert all(a["role"] == "group" and a["aria-label"] for a in groups)
    assert "@media print" in page.source


def test_the_lead_states_the_outcome_at_one_threshold(page, grokked):
    transition = grokked.transition
    fits, generalizes = transition.T_train[0.99].step, transition.T_grok[0.99].step
    assert fits == 100
    text = f"its the training set at step 100, generalizes at step {generalizes:,} (both at 99 %)"
    assert f"grokked F{text}" in page.text
    assert f"Outcome: grokked (f{text})" in page.text
    assert "Key frequencies at step 2,000: 2, 5, 9." in page.text


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ("DNF_test", "does not generalize by step 2,000"),
        ("diverged", "The loss became NaN"),
        ("undetermined", "A single step"),
    ],
)
def test_the_lead_states_other_outcomes(outcome, text, grokked):
    reason = {"diverged": "the loss became NaN", "undetermined": "a single step was evaluated"}.get(outcome, "")
    never = {theta: replace(event, step=None) for theta, event in grokked.transition.T_grok.items()}
    changed = replace(grokked.transition, outcome=Outcome(outcome), reason=reason, T_grok=never)
    assert text in lead([replace(grokked, transition=changed)], ["a run"])


def test_facts_transition_and_rules_are_tables(page, grokked):
    text = page.text
    assert "211 of 529 inputs are training inputs (39.9%)" in text
    assert "unknown: the run was recorded or imported" in text
    assert "forward path recorded" in text
    event = grokked.transition.T_grok[0.99]
    assert f"T_grok(0.99) {event.step:,} {event.previous:,}" in text
    boundary = grokked.transition.circuit_formation_end
    assert f"circuit formation ends {boundary.step} {boundary.previous} {boundary.low} to {boundary.high}" in text
    assert grokked.transition.memorization_end.reason in text
    assert "cube_cosine (used) 2, 5, 9 the same" in text
    assert "5 is a harmonic: the double of 9" in text


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [("grokinterp train a b", "grokinterp train a b"), ("mine.py --key=secret", "mine.py"), (["x"], "unknown")],
)
def test_the_arguments_of_other_programs_are_not_shown(recorded, shown, bare):
    environment = {**bare.run.environment, "command": recorded}
    (bare.run.path / "environment.json").write_text(json.dumps(environment))
    assert f"<th>command</th><td>{shown}</td>" in facts([bare], ["bare"])


def test_every_final_number_has_its_definition_or_reason(page, grokked):
    last = grokked.timeline.iloc[-1]
    for column, value in last.items():
        definition = definition_of(grokked, str(column))
        assert definition
        reason = "" if math.isfinite(value) else f" {grokked.why_missing(str(column), 2000)}"
        assert f"{column} {number(float(value))}{reason} {definition}" in page.text, column


def test_the_parts_of_a_model_share_a_definition(grokked):
    assert "one part of the model" in definition_of(grokked, "group_norm.embed")


def test_warnings_are_shown_if_there_are_any(grokked, page):
    assert "Read these warnings" not in page.text
    coarse = replace(grokked, warnings=("a <b>coarse</b> grid",))
    assert warnings([coarse], ["a"]) == ["a &lt;b&gt;coarse&lt;/b&gt; grid"]
    assert warnings([coarse, grokked], ["a", "b"]) == ["<b>a</b>: a &lt;b&gt;coarse&lt;/b&gt; grid"]


def test_names_from_the_user_are_escaped(bare, tmp_path):
    config = replace(bare.run.config, model=replace(bare.run.config.model, description="<img src=x onerror=alert(2)>"))
    run = gi.Run(bare.run.path, config)
    odd = Page(gi.write_report(replace(bare, run=run, warnings=("<i>w</i>",)), tmp_path / "odd.html"))
    assert odd.open == []
    assert EVIL in odd.text
    assert "<img src=x onerror=alert(2)>" in odd.text
    assert not [tag for tag, _ in odd.tags if tag in ("img", "i")]
    assert sum(tag == "script" for tag, _ in odd.tags) == len(odd.scripts)
    several = Page(gi.write_report([bare, bare], tmp_path / "several.html"))
    assert several.open == []
    assert "<script>alert" not in several.source.replace(get_plotlyjs(), "")


def test_a_run_with_little_data_is_reported(bare, tmp_path):
    text = Page(gi.write_report(bare, tmp_path / "bare.html")).text
    assert "undetermined" in text
    assert "x^3+xy mod 7 has no cyclic group" in text
    assert "the train/test split is unknown" in text


def test_a_report_on_several_runs_overwrites_no_report(grokked, bare, page):
    path = gi.write_report([grokked, bare])
    assert path == grokked.run.path / "analysis" / "comparison.html"
    text = Page(path).text
    assert "2 runs" in text
    assert "the runs differ in p (7, 23)" in text
    assert "Shared by all runs" in text


def test_the_lead_counts_the_outcomes_of_many_runs(grokked):
    assert "7 grokked." in lead([grokked] * 7, ["a run"] * 7)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (12345, "12,345"), (0.000012345, "1.234e-05"), (1.0, "1"), (0.98765, "0.9877")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


PROBE = """<!doctype html><body><iframe src="{source}" style="border:0; width:{width}px; height:900px"></iframe><script>
const later = (what) => setTimeout(what, 500);
addEventListener("load", () => later(() => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, view = frame.contentWindow;
  const plots = [...page.querySelectorAll(".plot")];
  const outside = (plot) => [...plot.querySelectorAll(".legend text, .xtitle, .ytitle, .xtick text, .ytick text")].some(
    (text) => {{
      const a = text.getBoundingClientRect(), b = plot.getBoundingClientRect();
      return a.width && (a.left < b.left - 2 || a.right > b.right + 2 || a.bottom > b.bottom + 2);
    }});
  const seen = {{
    width: view.innerWidth, scroll: page.documentElement.scrollWidth, plots: plots.length,
    drawn: plots.filter(p => p.querySelector(".scatterlayer path, .heatmaplayer image, .barlayer path")).length,
    widest: Math.max(0, ...plots.map(p => p.querySelector("svg.main-svg").getBoundingClientRect().width)),
    clipped: plots.filter(outside).map(p => p.id),
    uploads: page.querySelectorAll("[data-title^='Share']").length,
    top: plots[0]?.getBoundingClientRect().top ?? null,
    requests: view.performance.getEntriesByType("resource").map(e => e.name),
  }};
  const scales = () => plots.map(p => p._fullLayout.xaxis.type).sort().join(" ");
  const click = (label) => [...page.querySelectorAll(".steps button")].filter(b => b.textContent.includes(label))
    .map(b => b.click()).length;
  seen.buttons = click("log steps");
  later(() => {{
    seen.log = scales();
    click("linear steps");
    later(() => {{
      seen.linear = scales();
      document.body.textContent = "PROBE" + JSON.stringify(seen) + "END";
    }});
  }});
}}));
</script></body>"""


def browse(page: Path, folder: Path, width: int) -> tuple[dict, list[str]]:
    """Open a page in a frame of that width; return what it drew and requested, and the lines of its console."""
    if BROWSER is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(source=page.as_uri(), width=width), encoding="utf-8")
    outcome = processes.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "--window-size=1300,1000",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files", "--enable-logging=stderr",
            "--v=0", "--virtual-time-budget=20000", "--dump-dom", probe.as_uri(),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    match = re.search(r"PROBE(\{.*\})END", outcome.stdout)
    assert match, outcome.stdout[:2000] + outcome.stderr[-2000:]
    console = [line for line in outcome.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(match[1].replace("&amp;", "&")), console


@pytest.mark.parametrize("width", [400, pytest.param(1200, marks=pytest.mark.slow)])
def test_a_browser_draws_the_report_without_errors(width, grokked, tmp_path):
    path = gi.write_report(grokked, tmp_path / "report.html")
    seen, console = browse(path, tmp_path, width)
    assert console == []
    assert seen["requests"] == []
    assert seen["width"] == width
    assert seen["scroll"] <= width  # nothing makes the page scroll sideways
    assert seen["plots"] == seen["drawn"] == len(IN_REPORT) - 1
    assert seen["widest"] <= width
    assert seen["clipped"] == []
    assert seen["buttons"] == seen["plots"] - 1  # the spectrum at the end has no steps
    assert seen["uploads"] == 0
    assert seen["top"] < 420  # pixels above the first figure
    assert Counter(seen["log"].split()) == {"log": seen["buttons"], "linear": 1}
    assert set(seen["linear"].split()) == {"linear"}


def test_a_browser_draws_several_runs_with_little_data(grokked, bare, tmp_path):
    seen, console = browse(gi.write_report([grokked, bare], tmp_path / "several.html"), tmp_path, 700)
    assert console == []
    assert seen["requests"] == []
    assert seen["plots"] == seen["drawn"] > 0
    assert seen["clipped"] == []


def test_the_browser_test_can_fail(tmp_path):
    """The probe reports a script error and a network request."""
    path = tmp_path / "bad.html"
    path.write_text('<!doctype html><img src="http://example.org/a.png"><script>nothing.there</script>')
    seen, console = browse(path, tmp_path, 400)
    assert any("nothing is not defined" in line for line in console)
    assert seen["requests"] == ["http://example.org/a.png"]
