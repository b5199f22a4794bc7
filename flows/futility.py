"""When it makes no sense to go on: so many attempts in a row came to nothing."""


class Futility:
    """Counts attempts in a row that failed while no cell was measured: the next one will fail too.

    Parameters
    ----------
    limit : int
        So many are enough.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._n_futile = self._n_done = 0

    def note(self, n_done: int, *, failed: bool) -> bool:
        """Note how an attempt ended; give whether it was one too many.

        Parameters
        ----------
        n_done : int
            Cells that are done by now.
        failed : bool
            Whether the attempt failed; one that did not, and measured nothing, says neither.
        """
        if n_done > self._n_done:
            self._n_futile, self._n_done = 0, n_done
        elif failed:
            self._n_futile += 1
        return self._n_futile >= self._limit
