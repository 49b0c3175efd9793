"""A sweep on a Ray cluster of three nodes on this machine, one of which is removed in the middle."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweeps import BASE, TWELVE, assert_complete, assert_same_table, wait_for

from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.sweep import Progress, RayExecutor, Sweep, train_sweep

pytestmark = [
    pytest.mark.slow,
    # Ray's own, and of its child processes
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="the extra grokinterp[ray] is not installed")

# A run takes seconds: the processes of a node that is removed live for a moment longer.
LONGER = replace(
    BASE, schedule=replace(BASE.schedule, steps=3000, evaluate_every=50, checkpoints=1000, resume_every=100)
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Sweep:
    return train_sweep(tmp_path_factory.mktemp("sweeps") / "undisturbed", LONGER, grid=TWELVE, workers=2)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes of one core each, and a connection to them."""
    from ray.cluster_utils import Cluster

    memory = 100 * 2**20
    three = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": memory}
    )
    try:
        for _ in range(2):
            three.add_node(num_cpus=1, object_store_memory=memory)
        ray.init(address=three.address, log_to_driver=False, logging_level="error")
        three.wait_for_nodes()
        yield three
    finally:
        ray.shutdown()
        three.shutdown()


class RemoveOne:
    """Takes a node that is training out of a cluster, without a word, once some runs have finished."""

    def __init__(self, cluster: Any, places: Callable[[], Iterable[Path]]):
        """Args: places: gives the run folders that there are, also those on nodes."""
        self.cluster, self.places = cluster, places
        self.run: str | None = None

    def __call__(self, progress: Progress) -> None:
        if self.run is not None or progress.done < 2:
            return
        early = [place for place in self.places() if len(Run.open(place).metrics) < 15]  # of 61 evaluated steps
        busy = {parent_of(pid): place for place in early for pid in holder_of(place)}
        for node in list(self.cluster.worker_nodes):
            raylet = node.all_processes["raylet"][0].process.pid
            if raylet in busy:
                self.run = busy[raylet].name
                self.cluster.remove_node(node, allow_graceful=False)
                return


def begun(folders: Iterable[Path]) -> list[Path]:
    return [folder for folder in folders if (folder / "config.json").is_file()]


def holder_of(run: Path) -> list[int]:
    """The process that trains a run, if there is one."""
    try:
        return [int((run / ".lock").read_text().split()[1])]
    except (OSError, IndexError):
        return []


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])
    except OSError:
        return -1


@pytest.mark.parametrize("results", ["shared", "sent"])
def test_a_node_that_is_removed_costs_nothing(cluster, undisturbed, tmp_path, results):
    folder, nodes = tmp_path / "s", Path(tempfile.gettempdir())
    places = {"shared": lambda: begun(folder.glob("*=*")), "sent": lambda: begun(nodes.glob("grokinterp-*/*=*"))}
    remove = RemoveOne(cluster, places[results])
    found = train_sweep(folder, LONGER, grid=TWELVE, executor=RayExecutor(results=results, workers=3), watch=remove)
    assert remove.run is not None
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
    assert found.failures == {}
    assert_complete(folder, 12, LONGER.schedule)
    assert_same_table(found.table, undisturbed.table)
    again = Run.open(folder / remove.run).environment.get("resumed", [])
    assert len(again) == (1 if results == "shared" else 0), "sent ones begin anew"
    assert ray.is_initialized(), "a connection that was there before is left alone"
    assert not [entry for entry in folder.rglob(".*") if entry.suffix in (".tmp", ".old", ".lock")]


def test_failures_are_told_apart_there_too(cluster, tmp_path):
    points = [{"model_seed": 0}, {"optimizer.lr": 1e30}, {"task.train_fraction": 1.5}, {"task.train_fraction": 0.001}]
    config = replace(BASE, loss="mse", schedule=replace(BASE.schedule, steps=50))
    found = train_sweep(tmp_path / "s", config, points=points, executor=RayExecutor())
    assert {name: failure.kind for name, failure in found.failures.items()} == {
        "lr=1e+30": "diverged",
        "train_fraction=1.5": "invalid",
        "train_fraction=0.001": "invalid",
    }
    assert found.table["status"].tolist() == ["finished", "diverged", "failed", "failed"]


def test_what_a_run_asks_for_is_reserved(cluster, tmp_path):
    """One core a node: a run that asks for two finds no place, one of half a core finds one."""
    short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
    looks = 0

    class Enough(Exception):
        pass

    def give_up(progress: Progress) -> None:
        nonlocal looks
        looks += 1
        if looks > 8:
            raise Enough

    with pytest.raises(Enough):
        train_sweep(tmp_path / "two", short, grid={"model_seed": [0]}, executor=RayExecutor(cpus=2), watch=give_up)
    assert not (tmp_path / "two" / "model_seed=0").exists()
    found = train_sweep(tmp_path / "half", short, grid={"model_seed": [0]}, executor=RayExecutor(cpus=0.5))
    assert found.table["status"].tolist() == ["finished"]


def test_partial_runs_travel_there_and_go_on(cluster, undisturbed, tmp_path):
    half = replace(LONGER, schedule=replace(LONGER.schedule, steps=1000))
    grid = {"optimizer.weight_decay": [3.0], "model_seed": [0]}
    train_sweep(tmp_path / "s", half, grid=grid, workers=1)
    found = train_sweep(tmp_path / "s", LONGER, grid=grid, executor=RayExecutor(results="sent"))
    (run,) = found.runs
    assert run.environment["resumed"][-1]["from_step"] == 1000
    whole = Path(undisturbed.path) / run.path.name
    assert (run.path / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_no_cluster_at_an_address(tmp_path):
    with pytest.raises(ConfigError, match=r"no Ray cluster at 'nowhere:1'"):
        train_sweep(tmp_path / "s", BASE, grid={"model_seed": [0]}, executor=RayExecutor(address="nowhere:1"))
