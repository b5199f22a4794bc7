"""What was started for a while ends with who started it, also when that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

# In a thread that is over, since some ways to do this are tied to the thread that started the process.
STARTED = """
import subprocess, sys, threading, time
from sandbox import ending

def start():
    ending.start([sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', "
                  "'import time; print(1, flush=True); time.sleep(600)'], start_new_session=True)"])

for _ in range(2):
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
{end}
"""

SERVER = """
import sys, time
from pathlib import Path
from prefect_server import PrefectServer

PrefectServer._wait = lambda self: print(self._process.pid, flush=True)
PrefectServer(Path(sys.argv[1])).start()
time.sleep(600)
"""

OWN_SERVER = """
import time
import flows.own_server

process = flows.own_server.subprocess.Popen
def started(*arguments, **options):
    server = process(*arguments, **options)
    print(server.pid, flush=True)
    return server
flows.own_server.subprocess.Popen = started
with flows.own_server.own_server():
    time.sleep(600)
"""


def run(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """Run a program that says when it has started what it starts."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=known | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        start_new_session=True,
    )


def assert_all_gone(family: list[psutil.Process]) -> None:
    """Each of them ends, within a time that is enough on a busy machine."""
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


@pytest.mark.parametrize("how", ["killed", "group killed", "ended"])
def test_what_was_started_ends(how: str) -> None:
    """Two processes, with a child in another session each, whether their parent is killed or ends by itself."""
    process = run(STARTED.replace("{end}", "sys.stdin.read()" if how == "ended" else "time.sleep(600)"))
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["1\n", "1\n"]
    family = psutil.Process(process.pid).children(recursive=True)
    # Two, their children, and who watches.
    assert len(family) == 5
    if how == "killed":
        process.kill()
    elif how == "group killed":
        os.killpg(process.pid, signal.SIGKILL)
    # Closes its stdin, which one of them reads to the end.
    process.communicate()
    assert_all_gone(family)


def test_what_has_ended_before() -> None:
    """A process that is gone already, or never was, does not keep the others from being ended."""
    program = STARTED.replace("{end}", "ending.end_with_this_process(2**22 + 1)\ntime.sleep(600)")
    process = run(program)
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["1\n", "1\n"]
    family = psutil.Process(process.pid).children(recursive=True)
    for one in (family[0], *family[0].children()):
        one.kill()
    process.kill()
    process.communicate()
    assert_all_gone(family)


@pytest.mark.parametrize("program", [SERVER, OWN_SERVER], ids=["of the tests", "of the command"])
def test_prefect_servers(program: str, tmp_path: Path) -> None:
    """A Prefect server that was just started ends with a parent that is killed."""
    process = run(program, tmp_path)
    assert process.stdout
    server = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    assert_all_gone([server])
