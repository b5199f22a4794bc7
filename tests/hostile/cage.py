"""A process with little memory, in which what strangers wrote is read.

Reading in it a file that makes its reader allocate what the file claims fails at once, and does not take this machine
with it. One process serves many examples, since the imports cost seconds.
"""

import contextlib
import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from somatic.errors import SomaticError

ROOM_BYTES = 2**29
"""Address space beyond what the imports take: many times what the small inputs of these tests are worth."""
DEADLINE_S = 120.0
"""A reader that takes longer hangs."""

_ENVIRONMENT = {
    # Both would reserve address space that nothing ever uses.
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_OUT_OF_MEMORY = ("alloc of size", "MemoryError", "bad_alloc", "Unable to allocate", "ut of memory")


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a value, or the one line with which it was refused."""

    value: Any = None
    error: str | None = None
    """Name of the type of a SomaticError."""
    text: str = ""
    unexpected: str = ""
    """Traceback of any other exception."""

    @property
    def is_value(self) -> bool:
        """Whether the input was accepted."""
        return not self.error and not self.unexpected

    def check(self) -> "Outcome":
        """Make sure that this is a value, or a refusal of one printable line that is not the memory limit's."""
        assert not self.unexpected, self.unexpected
        assert self.text.isprintable(), repr(self.text)
        assert len(self.text) < 2000, self.text
        assert not any(word in self.text for word in _OUT_OF_MEMORY), self.text
        return self


class Cage:
    """The process; it is started for the first call, and again after one that it did not survive."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room_bytes = room_bytes
        self._process: multiprocessing.process.BaseProcess | None = None

    def run(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        """Call a function of a module by its name; arguments and value are pickled."""
        process = self._started()
        self._connection.send((function, arguments))
        if not self._connection.poll(DEADLINE_S):
            self.close()
            return Outcome(unexpected=f"it hangs: no answer in {DEADLINE_S:g} s")
        try:
            return self._connection.recv()
        except EOFError:
            process.join()
            ended = process.exitcode
            self.close()
            return Outcome(unexpected=f"the process ended with exit status {ended}")

    def read(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        """Call a function that must give a value or refuse in one line."""
        return self.run(function, *arguments).check()

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.join()
            self._process = None
            self._connection.close()

    def _started(self) -> multiprocessing.process.BaseProcess:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            with _environment():
                self._process = context.Process(target=_serve, args=(theirs, self._room_bytes), daemon=True)
                self._process.start()
            theirs.close()
        return self._process


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(connection: Connection, room_bytes: int) -> None:
    # What libraries print belongs to nobody.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    process, n_modules = psutil.Process(), 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    while True:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        # What modules take that came with the function is not the reader's.
        if len(sys.modules) > n_modules:
            n_modules, limit = len(sys.modules), process.memory_info().vms + room_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        connection.send(_called(function, arguments))


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(value=function(*arguments))
    except SomaticError as error:
        return Outcome(error=type(error).__name__, text=str(error))
    except BaseException:
        return Outcome(unexpected=traceback.format_exc())
