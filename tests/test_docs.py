"""The numbers, command lines, and file names in the documentation are right."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from grokinterp.cli import USAGE
from grokinterp.config import OptimizerConfig, RunConfig
from grokinterp.config.run import flat_config
from grokinterp.statistics import power_law

ROOT = Path(__file__).parent.parent
SWEEPS = (ROOT / "docs" / "sweeps.md").read_text()


@pytest.mark.parametrize(
    ("row", "quantity"), [("T_grok(0.95)", "T_grok_0.95"), ("T_grok(0.95) − T_train(0.99)", "delay_0.95_0.99")]
)
def test_exponents_of_weight_decay(row, quantity):
    fit = power_law(pd.read_csv(ROOT / "docs" / "data" / "psi_weight_decay.csv"), "optimizer.weight_decay", quantity)
    numbers = f"{fit.exponent:.2f} [{fit.interval.low:.2f}, {fit.interval.high:.2f}]".replace("-", "−")
    assert f"| {row} | {numbers} |" in SWEEPS
    assert fit.n == 12


def test_the_phase_diagram():
    table = pd.read_csv(ROOT / "docs" / "data" / "phase_diagram.csv")
    assert len(table) == 64
    scarce = table[(table["task.train_fraction"] < 0.4) & (table["optimizer.weight_decay"] < 8)]
    assert set(scarce["outcome"]) == {"DNF_test"}
    assert set(table[table["optimizer.weight_decay"] == 16]["outcome"]) == {"DNF_train"}
    odd = table[(table["optimizer.weight_decay"] == 8) & (table["task.train_fraction"] == 0.25)]
    assert odd["T_grok_0.95"].tolist() == [560.0]


def test_options_of_the_interventions_are_fields_with_these_defaults():
    page = (ROOT / "docs" / "interventions.md").read_text()
    named = set(re.findall(r"`((?:optimizer|model)\.\w+)`", page))
    fields = flat_config(RunConfig())
    assert named <= set(fields)
    optional = {"l1", "gradient_noise", "orthogonal_gradient", "grokfast", "constrain_norm"}
    assert {f"optimizer.{name}" for name in optional} | {"model.dropout", "model.output_scale"} <= named
    ema, ma = OptimizerConfig(grokfast="ema"), OptimizerConfig(grokfast="ma")
    assert f"`optimizer.grokfast_alpha` {ema.grokfast_alpha}, `optimizer.grokfast_lambda` {ema.amplification:g}" in page
    assert f"`optimizer.grokfast_window` ({ma.grokfast_window})" in page
    assert f"`optimizer.grokfast_lambda` {ma.amplification:g} |" in page


def shell_lines(page: Path) -> list[str]:
    """Lines of the blocks that are neither Python nor scripts, with continued lines joined."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    shell = [block for language, block in blocks if not language and not block.startswith("#!")]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


SWEEP_COMMANDS = [
    line.split(" > ")[0] for line in shell_lines(ROOT / "docs" / "sweeps.md") if line.startswith("grokinterp sweep")
]


@pytest.mark.parametrize("line", SWEEP_COMMANDS)
def test_command_lines_describe_sweeps(line, tmp_path):
    """Each is read as `grokinterp sweep` reads it, and gives the runs that the page counts."""
    from grokinterp.config import RunConfig
    from grokinterp.config.presets import preset
    from grokinterp.sweep import expand, parse_values

    words = shlex.split(line)
    base: RunConfig = preset(words[words.index("--preset") + 1])
    after = words[words.index("--grid") + 1 :]
    grid = after[: next((i for i, word in enumerate(after) if word.startswith("--")), None)]
    assert len(expand(base, grid=dict(map(parse_values, grid)))) in (12, 20, 64)


def test_there_are_command_lines_to_check():
    assert len(SWEEP_COMMANDS) >= 5


def test_the_map_names_files_that_exist():
    paths = re.findall(r"\| `([\w/]+(?:\.py)?)` \|", (ROOT / "docs" / "where_to_look.md").read_text())
    assert len(paths) == 22
    for path in paths:
        assert (ROOT / "grokinterp" / path).exists(), path


WRITTEN = {ROOT / "docs" / "gallery", ROOT / "docs" / "reference"}  # by `make docs`
DOCS = [page for page in (ROOT / "docs").rglob("*.md") if page.parent not in WRITTEN]
PAGES = sorted([ROOT / "README.md", ROOT / "checkpoints" / "README.md", *DOCS])


def test_every_line_of_a_shell_block_is_one_command():
    """An editor that reflows prose may also have reflowed the blocks."""
    names = re.findall(r"^  (\w+) ", USAGE, flags=re.MULTILINE)
    assert {"analyze", "train", "sweep", "reproduce"} <= set(names)
    count = 0
    for page in PAGES:
        for line in shell_lines(page):
            words = [word for word in shlex.split(line, comments=True) if not word.startswith("OMP_NUM_THREADS=")]
            where = f"{page.name}: {line}"
            assert words[0] in ("grokinterp", "make", "pip", "sbatch", "hf"), where
            assert not {"grokinterp", "pip", "make"} & set(words[1:]), where
            if words[0] == "grokinterp":
                assert words[1] in names, where
                count += 1
    assert count >= 15


def test_the_tests_that_hold_each_guarantee_exist():
    page = (ROOT / "docs" / "trust.md").read_text()
    file = None
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?(?:::(\w+))?`", page)
    for path, *names in named:
        file = path or file
        source = (ROOT / file).read_text()
        for name in filter(None, names):
            assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), f"{file} has no {name}"
    assert len(named) > 20
