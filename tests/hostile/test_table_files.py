"""Tables of strangers: nuclei or one line, whatever the file holds and claims."""

import gzip
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from cage import Cage
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from somatic.dataset import FileSource
from somatic.file_tables import FileTables
from somatic.planning.plan import make_plan

N = 40
FRAME = pd.DataFrame(
    {
        "id": np.arange(N) + 2**60,
        "pt_root_id": np.arange(N) + 864691135012345678,
        "pt_position_x": np.arange(N),
        "pt_position_y": np.arange(N),
        "pt_position_z": np.arange(N),
    }
)
LISTS = FRAME[["id", "pt_root_id"]].assign(pt_position=[[n, n, n] for n in range(N)])
SYNAPSES = pd.DataFrame(
    {
        "id": np.arange(N),
        "pre_pt_root_id": np.arange(N) + 2,
        "post_pt_root_id": np.arange(N) + 864691135012345678,
        "ctr_pt_position": [[n, n, n] for n in range(N)],
        "size": np.arange(N) + 0.5,
    }
)
one_folder = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parquet(table: pa.Table | pd.DataFrame, **options: Any) -> bytes:
    """A table as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_pandas(table), out, **options)
    return out.getvalue()


def feather(table: pa.Table | pd.DataFrame, compression: str = "uncompressed") -> bytes:
    """A table as a Feather file."""
    out = io.BytesIO()
    pa.feather.write_feather(table, out, compression=compression)
    return out.getvalue()


GOOD = {
    "nuclei.csv": FRAME.to_csv(index=False).encode(),
    "nuclei.csv.gz": gzip.compress(FRAME.to_csv(index=False).encode()),
    "nuclei.parquet": parquet(FRAME),
    "lists.parquet": parquet(LISTS, compression="zstd"),
    "nuclei.feather": feather(FRAME),
    "zstd.feather": feather(LISTS, "zstd"),
}


def read_nuclei(path: str, content: bytes) -> int:
    """Nuclei of a file, planned; gives their number."""
    Path(path).write_bytes(content)
    nuclei = FileTables(FileSource(nuclei=path, resolution_nm=(8, 8, 33))).nuclei()
    make_plan(nuclei, radius_nm=15_000)
    return len(nuclei.frame)


def read_synapses(path: str, content: bytes) -> int:
    """Synapses of a file; gives the number of those onto the roots of `FRAME`."""
    Path(path).write_bytes(content)
    tables = FileTables(FileSource(nuclei="unused.csv", synapses=path, resolution_nm=(8, 8, 33)))
    found = tables.synapses(FRAME["pt_root_id"], [0, 0, 0], [1e6, 1e6, 1e6])
    assert found is not None
    return len(found.frame)


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read(cage: Cage, tmp_path: Path, name: str) -> None:
    """In as little memory as the others have."""
    assert cage.read(read_nuclei, str(tmp_path / name), GOOD[name]).value == N


@pytest.mark.parametrize("name", GOOD)
@one_folder
@given(data=st.data())
def test_files_that_are_cut_and_swapped(cage: Cage, tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Lengths, offsets and types that are not those of the file."""
    cage.read(read_nuclei, str(tmp_path / name), data.draw(damaged(GOOD[name])))


@pytest.mark.parametrize("write", [parquet, feather])
@one_folder
@given(data=st.data())
def test_synapses_that_are_cut_and_swapped(cage: Cage, tmp_path: Path, write: Any, data: st.DataObject) -> None:
    """The same of the larger of the two tables."""
    cage.read(read_synapses, str(tmp_path / f"a.{write.__name__}"), data.draw(damaged(write(SYNAPSES))))


def varint(number: int) -> bytes:
    """A number as Thrift writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@one_folder
@given(data=st.data(), number=st.sampled_from([2 * 10**6, 2 * 10**12, 2**62]))
def test_numbers_of_a_parquet_footer(cage: Cage, tmp_path: Path, data: st.DataObject, number: int) -> None:
    """Any byte of a footer as 10^6, 10^12 or more, the footer's length made to fit: rows, values, offsets, lengths."""
    good = GOOD["lists.parquet"]
    (length,) = struct.unpack("<I", good[-8:-4])
    columns, footer = good[: -8 - length], good[-8 - length : -8]
    place = data.draw(st.integers(0, length - 1))
    footer = footer[:place] + varint(number) + footer[place + 1 :]
    cage.read(read_nuclei, str(tmp_path / "n.parquet"), columns + footer + struct.pack("<I", len(footer)) + b"PAR1")


def test_rows_that_take_no_room(cage: Cage, tmp_path: Path) -> None:
    """Ten million rows in half a megabyte: constant columns of Parquet, compressed ones of Feather."""
    table = pa.table({name: np.zeros(10**6, np.int64) for name in FRAME.columns})
    rows, batches = io.BytesIO(), io.BytesIO()
    with (
        pq.ParquetWriter(rows, table.schema) as as_parquet,
        pa.ipc.new_file(batches, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as as_feather,
    ):
        for _ in range(15):
            as_parquet.write_table(table)
            as_feather.write_table(table)
    for name, file in (("n.parquet", rows), ("n.feather", batches)):
        assert "15000000 rows" in cage.read(read_nuclei, str(tmp_path / name), file.getvalue()).text


def test_text_that_takes_no_room(cage: Cage, tmp_path: Path) -> None:
    """A gigabyte of rows in a megabyte of gzip, and a megabyte of blanks where a position should be."""
    head = b"id,pt_root_id,pt_position\n"
    zipper = zlib.compressobj(9, wbits=31)
    rows = b"0,0,0 0 0\n" * 10**6
    bomb = b"".join([zipper.compress(head), *(zipper.compress(rows) for _ in range(100)), zipper.flush()])
    assert "times its length" in cage.read(read_nuclei, str(tmp_path / "n.csv.gz"), bomb).text
    blanks = head + b'1,5,"' + b" " * 900_000 + b'x"\n'
    assert "pt_position is '  " in cage.read(read_nuclei, str(tmp_path / "n.csv"), blanks).text


def test_a_buffer_that_claims_a_terabyte(cage: Cage, tmp_path: Path) -> None:
    """The length that a compressed column of Feather is said to have."""
    good = GOOD["zstd.feather"]
    start = 0
    while (start := good.find(struct.pack("<q", 8 * N), start + 1)) > 0:
        claimed = good[:start] + struct.pack("<q", 2**40) + good[start + 8 :]
        cage.read(read_nuclei, str(tmp_path / "n.feather"), claimed)


@pytest.mark.parametrize("column", ["id", "pt_root_id", "pt_position_x"])
@pytest.mark.parametrize("write", [parquet, feather])
def test_columns_of_any_type(cage: Cage, tmp_path: Path, column: str, write: Any) -> None:
    """Extension types, dictionaries, decimals, times, numbers that are none: each is read or refused."""
    values = {
        "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"1" * 16], pa.binary(16))),
        "dictionary": pa.array([1]).dictionary_encode(),
        "decimal": pa.array([1]).cast(pa.decimal128(20, 0)),
        "time": pa.array([1]).cast(pa.timestamp("ns")),
        "bytes": pa.array([b"a"]),
        "struct": pa.array([{"a": 1}]),
        "flag": pa.array([True]),
        "nan": pa.array([float("nan")]),
        "infinite": pa.array([float("inf")]),
        "nothing": pa.nulls(1),
        "escape": pa.array(["\x1b[2J"]),
        "large": pa.array([2**64 - 1], pa.uint64()),
        "long list": pa.array([list(range(1000))]),
    }
    for kind, value in values.items():
        row = FRAME[:1].to_dict("list") | {column: value}
        outcome = cage.read(read_nuclei, str(tmp_path / f"n.{write.__name__}"), write(pa.table(row)))
        if kind == "extension":
            assert "extension" in outcome.text


def test_metadata_that_pandas_would_obey(cage: Cage, tmp_path: Path) -> None:
    """What a file says of an index is not read."""
    table = pa.Table.from_pandas(FRAME)
    for noted in (b"{", b'{"index_columns": ["id"], "columns": 5}', b"\xff"):
        for write in (parquet, feather):
            content = write(table.replace_schema_metadata({b"pandas": noted}))
            assert cage.read(read_nuclei, str(tmp_path / f"n.{write.__name__}"), content).value == N


def test_schemas_that_are_deep(cage: Cage, tmp_path: Path) -> None:
    """Structs in structs in structs."""
    kind = pa.int64()
    for _ in range(2000):
        kind = pa.struct([("a", kind)])
    table = pa.table(FRAME[:1].to_dict("list") | {"deep": pa.nulls(1, kind)})
    cage.read(read_nuclei, str(tmp_path / "n.parquet"), parquet(table))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(cage: Cage, tmp_path: Path, kind: str) -> None:
    """A pipe is not waited for, and a device not read to its end."""
    path = tmp_path / "nuclei.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    refused = cage.read(read_columns, str(path))
    assert "not a regular file" in refused.text


def read_columns(path: str) -> int:
    """Nuclei of a file that is there."""
    return len(FileTables(FileSource(nuclei=path, resolution_nm=(8, 8, 33))).nuclei().frame)


@pytest.mark.parametrize("value", [float("inf"), 1e308, -1e308])
def test_sizes_of_synapses(cage: Cage, tmp_path: Path, value: float) -> None:
    """Their sum is a number of the table, so that none may be infinite."""
    table = SYNAPSES.assign(size=value)
    assert "size is" in cage.read(read_synapses, str(tmp_path / "s.parquet"), parquet(table)).text


@pytest.mark.parametrize("resolution", [1e-3, 1e6])
def test_positions_without_end(cage: Cage, tmp_path: Path, resolution: float) -> None:
    """The farthest positions that are numbers, in the smallest and largest voxels: planned or refused."""
    path = str(tmp_path / "n.parquet")
    for value in (2.0**53 - 1, -(2.0**53), 1e300, float("-inf")):
        cage.read(
            plan_in_voxels_of, path, parquet(FRAME.assign(pt_position_x=[value] * (N - 1) + [-value])), resolution
        )


def plan_in_voxels_of(path: str, content: bytes, resolution_nm: float) -> int:
    """Chunks of a plan of nuclei, with the smallest cutout."""
    Path(path).write_bytes(content)
    nuclei = FileTables(FileSource(nuclei=path, resolution_nm=(resolution_nm,) * 3)).nuclei()
    return make_plan(nuclei, radius_nm=1).n_chunks
