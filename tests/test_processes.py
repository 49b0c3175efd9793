"""Processes that tests start end with the test, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run, start, wait_until

SLEEP = [sys.executable, "-c", "print('ready', flush=True)\nimport time\ntime.sleep(600)"]


def has_ended(pid: int) -> bool:
    """Whether a process has ended, even if nobody has collected its exit status yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_end_of_the_block_kills_a_process_and_its_children():
    script = f"import subprocess\nprint(subprocess.Popen({SLEEP!r}).pid, flush=True)\nimport time\ntime.sleep(600)"
    with start([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert not has_ended(child)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: has_ended(child))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills a process when its parent dies")
def test_a_process_dies_with_a_test_that_is_killed():
    script = f"import sys, time\nfrom processes import start\nwith start({SLEEP!r}) as child:\n"
    script += "    print(child.pid, flush=True)\n    time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with start([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as test:
        assert test.stdout is not None
        words = sorted([test.stdout.readline().strip(), test.stdout.readline().strip()])
        child = int(words[0])
        assert words[1] == "ready"
        assert not has_ended(child)
        test.kill()
        test.wait()
        wait_until(lambda: has_ended(child))


def test_run_returns_output_and_exit_status():
    result = run(
        [sys.executable, "-c", "print(input()); raise SystemExit(3)"], capture_output=True, text=True, input="a"
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "a\n", "")
    with pytest.raises(subprocess.CalledProcessError):
        run([sys.executable, "-c", "raise SystemExit(3)"], check=True)
