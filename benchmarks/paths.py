"""`python -m benchmarks.paths FOLDER [SEED ...]`: compares the mainline run by the fast path and by the plain module.

Both should grok with the same phases. The step at which they grok differs, since rounding alone moves it by a tenth.
The plain run takes half an hour on two cores, the fast one four minutes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from grokinterp.analysis.timeline import analyze
from grokinterp.config.presets import preset
from grokinterp.runs.run import Run
from grokinterp.training import train


def main(folder: str, *seeds: str) -> None:
    config = preset("transformer-lens")
    if config.schedule:
        config = replace(config, schedule=replace(config.schedule, stop_when_grokked=True, stop_factor=1.5))
    for seed in map(int, seeds or ("999",)):
        for plain in (False, True):
            path = Path(folder) / f"{'plain' if plain else 'fast'}_{seed}"
            resume = (path / "config.json").exists()
            run = train(replace(config, model_seed=seed), path, resume=resume, plain_forward=plain)
            print(json.dumps(describe(run)), flush=True)


def describe(run: Run) -> dict[str, object]:
    """The results by which the two paths are compared."""
    summary = analyze(run).summary()
    phases = {
        name: [phase[at] for at in ("step", "low", "high")] for name, phase in summary["transition"]["phases"].items()
    }
    return {
        "run": run.path.name,
        "forward_path": run.environment["forward_path"],
        "seconds": run.status["timing"]["seconds"],
        **{name: summary["transition"][name] for name in ("outcome", "T_train", "T_grok")},
        "phases": phases,
        "key_frequencies": summary["reference"]["key_frequencies"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
