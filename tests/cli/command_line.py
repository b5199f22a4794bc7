"""Running the command `somatic` in tests, and changing its inputs."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Running:
    """The command in a process of its own, its stdout and stderr read as they come."""

    process: subprocess.Popen[bytes]
    readers: list[threading.Thread]
    started: float
    texts: dict[str, bytearray] = field(default_factory=dict)

    def ended(self, within_s: float) -> Ran:
        """Wait for its end."""
        try:
            status = self.process.wait(within_s - (time.monotonic() - self.started))
        finally:
            self.process.kill()
        seconds = time.monotonic() - self.started
        for reader in self.readers:
            reader.join(10)
        return Ran(status, *(self.texts[name].decode() for name in ("out", "err")), seconds=seconds)


def start(*arguments: object, folder: Path, terminal: bool = False, **environment: str) -> Running:
    """Start the command in a folder, with stderr at a terminal of 80 columns if wanted, and go on."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    known |= laptop(folder) | {"PREFECT_HOME": str(folder / "prefect-home"), "TERM": "xterm-256color"} | environment
    master, err = os.openpty() if terminal else os.pipe()
    out_reader, out = os.pipe()
    process = subprocess.Popen(
        [SOMATIC, *map(str, arguments)], cwd=folder, env=known, stdin=subprocess.DEVNULL, stdout=out, stderr=err
    )
    os.close(out)
    os.close(err)
    running = Running(process, [], time.monotonic())
    for name, source in (("out", out_reader), ("err", master)):
        running.texts[name] = bytearray()
        reader = threading.Thread(target=_read, args=(source, running.texts[name]), daemon=True)
        reader.start()
        running.readers.append(reader)
    return running


def _read(source: int, into: bytearray) -> None:
    # A terminal whose other end is closed answers with an error.
    with contextlib.suppress(OSError):
        while some := os.read(source, 65536):
            into += some
    os.close(source)


def changed(path: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a dataset file in a folder, with some text replaced; each must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    copy = folder / "changed.toml"
    copy.write_text(text)
    return copy
