"""Loops of our own over voxels and meshes, compiled by numba where no library has them or libraries take ten times as long."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from llvmlite.ir import Constant, IntType
from numba import njit, types
from numba.extending import intrinsic

Loop = TypeVar("Loop", bound=Callable)


def compiled(function: Loop) -> Loop:
    """Compile a function when it is first called, and keep the result on disk for other processes where that can be.

    Compiling takes seconds. A disk that cannot be written costs each process these seconds, and nothing else.
    """
    loop = njit(nogil=True)(function)
    with suppress(RuntimeError):
        loop.enable_caching()
    return loop


@intrinsic
def trailing_zeros(_context, word):  # noqa: ANN001, ANN201
    """Number of the lowest bit that is set in a word that has one; only in compiled functions."""

    def generate(_context, builder, _signature, arguments):  # noqa: ANN001, ANN202
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(word), generate
