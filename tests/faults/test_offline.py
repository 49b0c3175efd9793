"""No network access: import, train, analyze and report open no connection and import no tracker."""

import json
import os
import shutil
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, socket, sys

touched = []

def hook(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")) and event != "socket.gethostname":
        touched.append(f"{event} {str(arguments)[:100]}")
        if event not in ("socket.__new__",):
            raise OSError("there is no network here")

def refuse(*arguments, **options):
    touched.append(f"called {arguments[:2]!r}")
    raise OSError("there is no network here")

sys.addaudithook(hook)
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse)
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)

import grokinterp as gi
from grokinterp.cli import main

for name in gi.__all__:
    getattr(gi, name)
folder = sys.argv[1]
config = gi.RunConfig.from_json(open(sys.argv[2]).read())
run = gi.train(config, folder, progress=False)
gi.write_report(gi.analyze(run, workers=2))
run.model(0)
codes = [main(["verify", folder]), main(["list", folder + "/.."]), main(["report", folder])]
codes.append(main(["train", folder + "2", "--preset", "demo", "--schedule.steps", "3", "--device", "cpu"]))
unwanted = ["wandb", "trackio", "requests", "httpx", "urllib3", "comet_ml", "mlflow", "sentry_sdk"]
found = {"touched": touched, "modules": [m for m in unwanted if m in sys.modules], "codes": codes}
open(sys.argv[3], "w").write(json.dumps(found))
"""


def watched(tmp_path: Path, *wrapper: str) -> dict[str, list[object]]:
    answer = tmp_path / "answer.json"
    config = ROOT / "tests" / "data" / "trainer" / "transformer" / "config.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HTTPS_PROXY": "http://127.0.0.1:9"}
    outcome = processes.run(
        [*wrapper, sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "run"), str(config), str(answer)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.exists(), outcome.stderr[-3000:]
    return json.loads(answer.read_text())


@pytest.mark.slow
def test_no_socket_is_opened_and_no_tracker_imported(tmp_path):
    assert watched(tmp_path) == {"touched": [], "modules": [], "codes": [0, 0, 0, 0]}


@pytest.mark.slow
def test_all_of_it_works_on_a_machine_without_a_network(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None or processes.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace cannot be made here")
    assert watched(tmp_path, unshare, "-rn")["codes"] == [0, 0, 0, 0]


def test_the_watch_detects_lookups_and_connections(tmp_path, monkeypatch):
    """The watch detects name lookups and connections."""
    watch, rest = SCRIPT.split("import grokinterp as gi")
    asking = """
for ask in ("import urllib.request; urllib.request.urlopen('http://localhost:9')",
            "socket.create_connection(('localhost', 9))", "socket.socket().connect(('127.0.0.1', 9))"):
    try:
        exec(ask)
    except OSError:
        pass
codes = []
"""
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", watch + asking + rest[rest.index("unwanted") :])
    touched = " ".join(map(str, watched(tmp_path)["touched"]))
    assert "urllib.Request" in touched
    assert touched.count("called") == 2
