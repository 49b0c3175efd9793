"""Sweeps on a Ray cluster of three nodes on this machine, one of which is removed during training."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from sweeps import BASE, TWELVE, assert_complete, assert_same_table

from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.sweep import Progress, RayExecutor, Sweep, train_sweep

pytestmark = [
    pytest.mark.slow,
    # from Ray and its child processes
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="the extra grokinterp[ray] is not installed")

# Runs take seconds, because the processes of a removed node live on for a moment.
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
    """Removes a node that is training from a cluster, without notice, after some runs have finished.

    Args:
        cluster: the cluster.
        places: returns the folders of started runs, including those on nodes.
    """

    def __init__(self, cluster: Any, places: Callable[[], Iterable[Path]]):
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


def started_runs(folders: Iterable[Path]) -> list[Path]:
    return [folder for folder in folders if (folder / "config.json").is_file()]


def holder_of(run: Path) -> list[int]:
    """The process that trains a run, if any."""
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
def test_removing_a_node_loses_no_run(cluster, undisturbed, tmp_path, results):
    folder, nodes = tmp_path / "s", Path(tempfile.gettempdir())
    places = {
        "shared": lambda: started_runs(folder.glob("*=*")),
        "sent": lambda: started_runs(nodes.glob("grokinterp-*/*=*")),
    }
    remove = RemoveOne(cluster, places[results])
    sweep = train_sweep(folder, LONGER, grid=TWELVE, executor=RayExecutor(results=results, workers=3), watch=remove)
    assert remove.run is not None
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
    assert sweep.failures == {}
    assert_complete(folder, 12, LONGER.schedule)
    assert_same_table(sweep.table, undisturbed.table)
    resumed = Run.open(folder / remove.run).environment.get("resumed", [])
    assert len(resumed) == (1 if results == "shared" else 0), "runs that are sent start over"
    assert ray.is_initialized(), "an existing connection stays open"
    assert not [entry for entry in folder.rglob(".*") if entry.suffix in (".tmp", ".old", ".lock")]


def test_failures_have_the_same_causes_as_locally(cluster, tmp_path):
    points = [{"model_seed": 0}, {"optimizer.lr": 1e30}, {"task.train_fraction": 1.5}, {"task.train_fraction": 0.001}]
    config = replace(BASE, loss="mse", schedule=replace(BASE.schedule, steps=50))
    sweep = train_sweep(tmp_path / "s", config, points=points, executor=RayExecutor())
    assert {name: failure.kind for name, failure in sweep.failures.items()} == {
        "lr=1e+30": "diverged",
        "train_fraction=1.5": "invalid",
        "train_fraction=0.001": "invalid",
    }
    assert sweep.table["status"].tolist() == ["finished", "diverged", "failed", "failed"]


def test_the_resources_of_a_run_are_reserved(cluster, tmp_path):
    """With one core per node, a run that requests two cores never starts, and one that requests half a core does."""
    short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
    reports = 0

    class EnoughError(Exception):
        pass

    def give_up(progress: Progress) -> None:
        nonlocal reports
        reports += 1
        if reports > 8:
            raise EnoughError

    with pytest.raises(EnoughError):
        train_sweep(tmp_path / "two", short, grid={"model_seed": [0]}, executor=RayExecutor(cpus=2), watch=give_up)
    assert not (tmp_path / "two" / "model_seed=0").exists()
    sweep = train_sweep(tmp_path / "half", short, grid={"model_seed": [0]}, executor=RayExecutor(cpus=0.5))
    assert sweep.table["status"].tolist() == ["finished"]


def test_partial_runs_are_sent_and_resumed(cluster, undisturbed, tmp_path):
    half = replace(LONGER, schedule=replace(LONGER.schedule, steps=1000))
    grid = {"optimizer.weight_decay": [3.0], "model_seed": [0]}
    train_sweep(tmp_path / "s", half, grid=grid, workers=1)
    sweep = train_sweep(tmp_path / "s", LONGER, grid=grid, executor=RayExecutor(results="sent"))
    (run,) = sweep.runs
    assert run.environment["resumed"][-1]["from_step"] == 1000
    uninterrupted = Path(undisturbed.path) / run.path.name
    assert (run.path / "metrics.jsonl").read_text() == (uninterrupted / "metrics.jsonl").read_text()


def test_no_cluster_at_an_address(tmp_path):
    with pytest.raises(ConfigError, match=r"no Ray cluster at 'nowhere:1'"):
        train_sweep(tmp_path / "s", BASE, grid={"model_seed": [0]}, executor=RayExecutor(address="nowhere:1"))
