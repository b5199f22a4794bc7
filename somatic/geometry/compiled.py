"""Loops of our own over voxels and meshes, compiled by numba.

Only where no library has them, or libraries take ten times as long.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from llvmlite.ir import Constant, IntType
from numba import njit, types
from numba.extending import intrinsic

Loop = TypeVar("Loop", bound=Callable[..., Any])

_cache_folders: set[Path] = set()


def compiled(function: Loop) -> Loop:
    """Compile a function when it is first called, and keep the result on disk for other processes where that can be.

    Compiling takes seconds. A disk that cannot be written costs each process these seconds, and nothing else.
    """
    loop: Any = njit(nogil=True)(function)
    with suppress(RuntimeError):
        loop.enable_caching()
        _cache_folders.add(Path(loop.stats.cache_path))
    return loop


def has_machine_code() -> bool:
    """Whether an earlier process kept machine code of any loop on disk, so that loops are loaded and not compiled."""
    return any(any(folder.glob("*.nbi")) for folder in _cache_folders)


def _instruction(name: str, *more: Constant) -> Any:
    """A function of a word of 64 bits that is one instruction of the processor, for compiled functions."""

    @intrinsic
    def function(_context, word):  # noqa: ARG001 - the name is part of its type
        def generate(_context, builder, _signature, arguments):
            return getattr(builder, name)(arguments[0], *more)

        return types.int64(types.uint64), generate

    return function


trailing_zeros = _instruction("cttz", Constant(IntType(1), 1))
"""Number of the lowest bit that is set in a word that has one."""

n_set = _instruction("ctpop")
"""Number of bits that are set in a word."""
