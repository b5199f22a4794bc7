"""Ways in which a file of a stranger differs from a good one."""

from hypothesis import strategies as st

NOISE = st.binary(max_size=16) | st.sampled_from(
    [b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 7 + b"\x7f", b"\x1b[2J", b"9" * 400]
)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with a part left out, a part twice, a few bytes overwritten, or cut short."""
    start = draw(st.integers(0, len(good)))
    noise = draw(NOISE)
    kind = draw(st.sampled_from(["overwrite", "cut", "leave out", "insert", "swap"]))
    if kind == "overwrite":
        return good[:start] + noise + good[start + len(noise) :]
    if kind == "insert":
        return good[:start] + noise + good[start:]
    if kind == "cut":
        return good[:start]
    stop = draw(st.integers(start, len(good)))
    if kind == "leave out":
        return good[:start] + good[stop:]
    return good[start:stop] + good[:start] + good[stop:]
