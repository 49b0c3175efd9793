"""Recipe `manir-fourier`: share of the embedding energy in five frequencies, for two MLPs and a transformer."""

from grokinterp.experiments.claims.manir_norms import embedding_concentration, top_energy
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import ACTIVATION, SOURCE, network, small_network, small_transformer, transformer
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe
from grokinterp.runs.run import Run

_ACTIVATIONS = ("gelu", "relu")


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    mlp, transformer = ([run["top_energy"] for run in evidence.extracted(arm)] for arm in ("mlp", "transformer"))
    return (embedding_concentration(mlp, transformer, published_size=not evidence.quick),)


def _extract(run: Run) -> dict[str, float]:
    return {"top_energy": top_energy(run.snapshot(run.steps[-1]))[0]}


RECIPE = Recipe(
    name="manir-fourier",
    title="Fourier concentration of the embedding: transformer versus MLP",
    source=SOURCE,
    full=Form(
        (
            Arm("mlp", network(4, 512, lr=3e-2, decay=5e-4), {ACTIVATION: _ACTIVATIONS}, extract=_extract),
            Arm("transformer", transformer(1.0), extract=_extract, updates=55_000),
        ),
        "11 hours",
        "measured at 1.1 T_grok(0.99); the paper gives neither the step nor the settings of its numbers, so this "
        "recipe uses those of Sweep B and of the matched comparison",
        gpu=True,
    ),
    quick=Form(
        (
            Arm("mlp", small_network(2, lr=0.1, decay=3e-3, steps=4000), {ACTIVATION: _ACTIVATIONS}, extract=_extract),
            Arm("transformer", small_transformer(1.0, steps=3000), extract=_extract),
        ),
        "25 seconds",
        "p = 31, half of the pairs, MLPs of depth 2 and width 64, a transformer of width 32",
    ),
    decide=_decide,
)
