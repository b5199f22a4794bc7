"""A container of a built image, started as an engine starts one but for the network, which is this machine's."""

import contextlib
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sandbox import ending

# /proc and /dev are mounted where no other process sees them, and end with the container.
_ENTER = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev"
root=$1 user=$2; shift 2
exec chroot --userspec="$user" "$root" env --ignore-environment "$@"
"""


def buildah(*arguments: str) -> str:
    """Run buildah, and give what it prints."""
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Container:
    """A writable copy of the image at `root`, and what the image says of how to start it."""

    root: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, name: str) -> "Container":
        """Look at a container that buildah made."""
        described = json.loads(buildah("inspect", "--type", "container", name))
        return cls(Path(buildah("mount", name)), described["OCIv1"]["config"])

    def start(self, *command: str, user: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start a command behind the image's entrypoint, or the image's own one, as process 1 of a namespace."""
        inside = self.config["Entrypoint"] + (list(command) or self.config["Cmd"])
        known = self.config["Env"] + [f"{name}={value}" for name, value in environment.items()]
        folder = f"--chdir={self.config['WorkingDir']}"
        return ending.start(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, "sh", self.root]
            + [user or self.config["User"], folder, *known, *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, user: str = "", within_s: float = 240, **environment: str) -> str:
        """Run a command to its end, which must be a good one, and give what it wrote."""
        process = self.start(*command, user=user, **environment)
        try:
            said, _ = process.communicate(timeout=within_s)
        finally:
            end(process)
        assert process.returncode == 0, said
        return said


def end(started: subprocess.Popen[str]) -> None:
    """End a container that may have ended; with its process 1 all others of the namespace end."""
    if started.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for first in psutil.Process(started.pid).children():
                first.kill()
        started.communicate()


def first_process(started: subprocess.Popen[str]) -> psutil.Process:
    """Process 1 of a container that was just started, to be sent a signal as an engine does."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (children := psutil.Process(started.pid).children()) and children[0].name() == "tini":
            return children[0]
        time.sleep(0.05)
    raise AssertionError("tini is not process 1 of the container")
