"""When it makes no sense to go on."""

from flows.futility import Futility


def test_so_many_in_a_row() -> None:
    """The third that fails without a cell is one too many, also after some that went well."""
    futility = Futility(3)
    assert not futility.note(10, failed=False)
    assert [futility.note(10, failed=True) for _ in range(3)] == [False, False, True]


def test_a_cell_is_enough_to_go_on() -> None:
    """Whatever else failed, what measured a cell was not futile; what did nothing and did not fail says neither."""
    futility = Futility(2)
    assert not futility.note(0, failed=True)
    assert not futility.note(1, failed=True)
    assert not futility.note(1, failed=True)
    assert not futility.note(1, failed=False)
    assert futility.note(1, failed=True)
