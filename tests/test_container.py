"""The limits of a container, read from fake control groups of both versions."""

import psutil
import pytest

from grokinterp.models.container import cpu_quota, memory_left
from grokinterp.models.memory import available_memory
from grokinterp.runs.environment import cores


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_control_group_there_is_no_limit(tmp_path):
    assert memory_left(tmp_path) is None
    assert cpu_quota(tmp_path) is None


def test_memory_left_in_version_2_counts_cached_files_as_free(tmp_path):
    write(tmp_path, memory__max=1000, memory__current=700, memory__stat="anon 400\ninactive_file 250\nactive_file 50")
    assert memory_left(tmp_path) == 550


def test_memory_left_in_version_1_counts_cached_files_as_free(tmp_path):
    stat = "cache 300\ninactive_file 5\ntotal_inactive_file 250"
    write(tmp_path / "memory", memory__limit_in_bytes=1000, memory__usage_in_bytes=700, memory__stat=stat)
    assert memory_left(tmp_path) == 550


def test_memory_left_is_never_negative(tmp_path):
    write(tmp_path, memory__max=1000, memory__current=1200, memory__stat="inactive_file 0")
    assert memory_left(tmp_path) == 0


def test_no_limit_is_none(tmp_path):
    write(tmp_path, memory__max="max", memory__current=700, memory__stat="inactive_file 0", cpu__max="max 100000")
    write(tmp_path / "cpu", **{"cpu__cfs_quota_us": -1, "cpu__cfs_period_us": 100000})
    assert memory_left(tmp_path) is None
    assert cpu_quota(tmp_path) is None


def test_cpu_quota_of_both_versions(tmp_path):
    write(tmp_path / "v2", cpu__max="150000 100000")
    write(tmp_path / "v1" / "cpu", cpu__cfs_quota_us=250000, cpu__cfs_period_us=100000)
    assert cpu_quota(tmp_path / "v2") == 1.5
    assert cpu_quota(tmp_path / "v1") == 2.5


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)), raising=False)


@pytest.mark.parametrize(("quota", "expected"), [("max", 8), (50_000, 1), (350_000, 3), (5_000_000, 8)])
def test_cores_are_those_of_the_process_within_the_quota(quota, expected, eight_cores, tmp_path):
    write(tmp_path, cpu__max=f"{quota} 100000")
    assert cores(tmp_path) == expected


def test_available_memory_is_the_least_of_machine_and_container(monkeypatch, tmp_path):
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine._replace(available=10**9))
    assert available_memory(tmp_path) == 10**9
    write(tmp_path, memory__max=10**8, memory__current=10**7, memory__stat="inactive_file 0")
    assert available_memory(tmp_path) == 9 * 10**7
    write(tmp_path, memory__max=10**12)
    assert available_memory(tmp_path) == 10**9
