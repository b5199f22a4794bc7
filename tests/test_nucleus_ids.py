"""`somatic.nucleus_ids`: lists of nuclei in tables and in texts, in files and at URLs."""

import gzip
from pathlib import Path

import pytest
from file_server import FileServer
from s3fs import S3FileSystem

from somatic.errors import DatasetError, NoSuchColumn
from somatic.nucleus_ids import read_nucleus_ids
from somatic.storage.store import ResultStore

FIRST_ID = 2**53 + 1


@pytest.mark.parametrize("columns", ["nucleus_id", "id", "id,nucleus_id"])
def test_either_column(tmp_path: Path, columns: str) -> None:
    """nucleus_id where there is one, else id; each once, ascending, to the last digit."""
    path = tmp_path / "some.csv"
    before = "1," * columns.count(",")
    path.write_text(f"{columns}\n" + "".join(f"{before}{FIRST_ID + n}\n" for n in (2, 0, 2)))
    assert read_nucleus_ids(str(path)) == [FIRST_ID, FIRST_ID + 2]


def test_neither_column(tmp_path: Path) -> None:
    """The line says what the table has."""
    path = tmp_path / "some.csv"
    path.write_text("cell,size\n1,2\n")
    with pytest.raises(NoSuchColumn, match=r"some\.csv: no column id; the table has cell, size"):
        read_nucleus_ids(str(path))


def test_a_file_that_is_called_no_column(tmp_path: Path) -> None:
    """What is wrong with nucleus_id is said, and id not taken in its place."""
    path = tmp_path / "no column.csv"
    path.write_text("id,nucleus_id\n1,two\n")
    with pytest.raises(DatasetError, match="nucleus_id is 'two' in row 1"):
        read_nucleus_ids(str(path))


LIST = f"{FIRST_ID + 2}, {FIRST_ID}  # two of them\r\n\r\n# none\r\n{FIRST_ID + 2};{FIRST_ID + 1}\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["ids.txt", "ids", "ids.txt.gz"])
def test_texts(tmp_path: Path, encoding: str, name: str) -> None:
    """Ids between commas, semicolons and line ends, with comments; a mark before them, as of Notepad, is none."""
    content = LIST.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_nucleus_ids(str(tmp_path / name)) == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]


@pytest.mark.parametrize("name", ["ids.txt", "ids.csv"])
def test_lists_at_urls(tmp_path: Path, s3_url: str, name: str) -> None:
    """A text and a table are read over HTTP and from a bucket, also by a URL that is signed."""
    content = f"nucleus_id\n{FIRST_ID}\n" if name.endswith(".csv") else f"{FIRST_ID}\n"
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}?signature=geheim").write_text(content)
    with FileServer(tmp_path) as server:
        url = server.url(name).removeprefix("precomputed://")
        assert read_nucleus_ids(url) == [FIRST_ID]
        assert read_nucleus_ids(f"{url}?signature=geheim") == [FIRST_ID]
        with pytest.raises(DatasetError) as caught:
            read_nucleus_ids(f"{url.replace('ids', 'none')}?signature=geheim")
        assert str(caught.value).endswith(f"/{name.replace('ids', 'none')}: no such file")
    # Earlier tests may have read from another S3 server, to which fsspec's cached file system is still connected.
    S3FileSystem.clear_instance_cache()
    ResultStore(s3_url).put(f"lists/{name}", content.encode())
    assert read_nucleus_ids(f"{s3_url}/lists/{name}") == [FIRST_ID]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{FIRST_ID}\n".encode("utf-16"), "it is in UTF-16, and not in UTF-8; save it as UTF-8"),
        (b"\xfc\n", "cannot be read as a list of nucleus ids: it is not text in UTF-8"),
        (b"1\n2.5\n", "'2.5' in line 2 is not a nucleus id; write one on each line"),
        (b"\xef\xbb\xbf", "no nucleus ids in it"),
    ],
)
def test_texts_that_are_no_list(tmp_path: Path, content: bytes, says: str) -> None:
    """What is in the place of an id, and where."""
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_nucleus_ids(str(tmp_path / "ids.txt"))
    assert str(caught.value).startswith(f"{tmp_path}/ids.txt: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("none.txt", "none.txt: no such file"),
        (".", ".: not a regular file"),
        ("s3:/bucket/ids.txt", "s3:/bucket/ids.txt: not a valid URL; did you mean s3://bucket/ids.txt?"),
        ("memory://ids.txt", "a table cannot be read: its address has the protocol memory://"),
    ],
)
def test_places_without_a_list(place: str, says: str) -> None:
    """A file that is not there, and a place that holds none."""
    with pytest.raises(DatasetError) as caught:
        read_nucleus_ids(place)
    assert str(caught.value).startswith(says)
