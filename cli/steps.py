"""What a command is doing, shown while it does it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown_steps() -> Iterator[Callable[[str], None]]:
    """Give a function that shows one step after the other; it shows nothing where stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _step: None
        return
    with console.status("starting") as status:
        yield status.update
