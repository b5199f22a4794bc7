"""Running the command `somatic` in tests, and changing its inputs."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from cli.main import main
from sandbox import ending
from somatic.cave import calls as cave_calls

SOMATIC = Path(sys.executable).with_name("somatic")
TOKEN = "c0ffee0123456789c0ffee0123456789"
NO_PERMISSION = "feed0123456789feed0123456789feed"
NO_TERMS = "dead0123456789dead0123456789dead"


@dataclass
class Ran:
    """How a command ended: exit status, what it wrote, seconds."""

    status: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def error(self) -> str:
        """The error, which must be one line on stderr, the last one."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("somatic: ")]
        assert said == lines[-1:], self.err
        assert "Traceback" not in self.err + self.out
        return said[0].removeprefix("somatic: ")


Run = Callable[..., Ran]


def laptop(home: Path) -> dict[str, str]:
    """Variables of a person's environment."""
    return {"HOME": str(home), "CAVE_TOKEN": TOKEN, "COLUMNS": "80"}


@contextlib.contextmanager
def at_a_laptop(folder: Path) -> Iterator[None]:
    """A home, a current folder and a terminal of 80 columns for this process; the token that opens the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in laptop(folder).items():
            patch.setenv(name, value)
        patch.chdir(folder)
        # Each command has a process, and so a rate limiter, of its own; these run in one process, where a command that
        # needs no Prefect would start a server for the limiter of an earlier one.
        patch.setattr(cave_calls, "_limiters", {})
        patch.setattr(cave_calls, "_make_limiter", cave_calls._of_this_process)
        yield


def run_here(*arguments: object) -> Ran:
    """Run the command in this process, through the entry point of the command line."""
    started, on_sigterm = time.monotonic(), signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["somatic", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main()
            raise AssertionError("the entry point must end with a status")
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
    assert isinstance(status, int)
    return Ran(status, out.getvalue(), err.getvalue(), time.monotonic() - started)


@dataclass
class Running:
    """The command in a process of its own, its stdout and stderr read as they come."""

    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    said: dict[str, bytearray] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)
    """When there was nothing more to read."""
    readers: list[threading.Thread] = field(default_factory=list)

    def read(self, name: str, source: int) -> None:
        """Collect what comes out of a pipe or a terminal."""

        def collect() -> None:
            # A terminal whose other end is closed answers with an error.
            with contextlib.suppress(OSError):
                while some := os.read(source, 65536):
                    self.said[name] += some
            self.silent[name] = time.monotonic()
            os.close(source)

        self.said[name] = bytearray()
        self.readers.append(threading.Thread(target=collect, daemon=True))
        self.readers[-1].start()

    def ended(self, within_s: float) -> Ran:
        """Wait for its end."""
        try:
            status = self.process.wait(max(0.1, within_s - (time.monotonic() - self.started)))
        finally:
            self.process.kill()
        for reader in self.readers:
            reader.join(10)
        out, err = (self.said[name].decode() for name in ("out", "err"))
        return Ran(status, out, err, self.silent["out"] - self.started)


def start(
    *arguments: object,
    folder: Path,
    terminal: bool = False,
    program: Sequence[object] = (SOMATIC,),
    **environment: str,
) -> Running:
    """Start the command in a folder, with stderr at a terminal if wanted, and go on."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    known |= laptop(folder) | {"PREFECT_HOME": str(folder / "prefect-home"), "TERM": "xterm-256color"} | environment
    err_source, err = os.openpty() if terminal else os.pipe()
    out_source, out = os.pipe()
    command = [*map(str, program), *map(str, arguments)]
    process = ending.start(command, cwd=folder, env=known, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    os.close(out)
    os.close(err)
    running = Running(process)
    running.read("out", out_source)
    running.read("err", err_source)
    return running


def changed(path: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a dataset file in a folder, with some text replaced; each must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    copy = folder / "changed.toml"
    copy.write_text(text)
    return copy
