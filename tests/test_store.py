"""Where results lie: one suite over a folder and a bucket, and what a place that cannot be used says."""

import itertools
import os
import signal
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import enable_iam_authentication
from moto.s3.models import s3_backends
from s3_proxy import S3Proxy

from somatic.errors import StoreError, StoreUnavailable
from somatic.storage.parquet import get_tables, parquet_bytes, table_from_parquet
from somatic.storage.store import ResultStore


def test_bytes_come_back(store_url: str) -> None:
    """What was put is got, also after it was replaced, and by who opens the place anew."""
    store = ResultStore(store_url)
    store.put("plans/a.parquet", b"first")
    store.put("plans/a.parquet", b"second")
    assert store.get("plans/a.parquet") == b"second"
    assert ResultStore(store_url).get("plans/a.parquet") == b"second"


def test_put_new_keeps_what_is_there(store_url: str) -> None:
    """A file that must not change is not written over."""
    store = ResultStore(store_url)
    assert store.put_new("chunks/a.parquet", b"first")
    assert not store.put_new("chunks/a.parquet", b"second")
    assert store.get("chunks/a.parquet") == b"first"


def test_names_are_those_of_this_folder_only(store_url: str) -> None:
    """A listing has the files and folders of one folder, sorted, without what lies deeper or beside it."""
    store = ResultStore(store_url)
    for name in ("chunks/b.parquet", "chunks/a.parquet", "chunks-old/c.parquet", "attempts/r1/d.parquet"):
        store.put(name, b"x")
    assert store.names("chunks") == ["a.parquet", "b.parquet"]
    assert store.names("attempts") == ["r1"]
    assert store.names("meshes") == []


def test_listing_sees_what_another_process_wrote(store_url: str) -> None:
    """A listing is never a remembered one."""
    store, other = ResultStore(store_url), ResultStore(store_url)
    other.put("chunks/a", b"x")
    assert store.names("chunks") == ["a"]
    assert not store.exists("chunks/b")
    other.put("chunks/b", b"x")
    assert store.names("chunks") == ["a", "b"]
    assert store.exists("chunks/b")


@pytest.mark.parametrize("store_url", ["file", "s3"], indirect=True)  # the server of gs:// would take a minute
def test_many_files_are_listed(store_url: str) -> None:
    """More files than S3 gives in one answer (1,000) are all listed, and read in the order asked for."""
    store = ResultStore(store_url)
    for number in range(1005):
        data = parquet_bytes(pa.table({"number": [number]}))
        _put_quickly(store_url, f"chunks/{number:04}.parquet", data)
    names = store.names("chunks")
    assert names == [f"{number:04}.parquet" for number in range(1005)]
    tables = get_tables(store, [f"chunks/{name}" for name in names[::-20]])
    assert [table["number"][0].as_py() for table in tables] == list(range(1004, -1, -20))


def _put_quickly(store_url: str, name: str, data: bytes) -> None:
    """Put a file past our own code; into the bucket past HTTP too, which takes seconds for a thousand files."""
    if store_url.startswith("s3://"):
        bucket, _, folder = store_url.removeprefix("s3://").partition("/")
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, f"{folder}/{name}", data)
    else:
        path = Path(store_url, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_reader_never_sees_a_part(store_url: str) -> None:
    """While a file is replaced again and again, each reading gets all of one writing."""
    store = ResultStore(store_url)
    size = 2**20
    store.put("features.parquet", b"x" * size)
    stop = threading.Event()

    def write() -> None:
        # No line ends, which the server of gs:// loses at the end of a file.
        for letter in itertools.cycle(string.ascii_letters):
            if stop.is_set():
                return
            store.put("features.parquet", letter.encode() * size)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            content = store.get("features.parquet")
            assert content == content[:1] * size
    finally:
        stop.set()
        writer.join()


def test_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves no file that is cut short, and its rests are not listed."""
    script = (
        "import sys; from somatic.storage.store import ResultStore; store = ResultStore(sys.argv[1]); n = 0\n"
        "while True: store.put(f'chunks/{n % 5}', bytes([n % 256]) * 4_000_000); n += 1; print(n, flush=True)"
    )
    for pause_s in (0.0, 0.011, 0.023):
        command = [sys.executable, "-c", script, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert process.stdout is not None
        for _ in range(6):
            process.stdout.readline()
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    store = ResultStore(str(tmp_path))
    assert store.names("chunks") == ["0", "1", "2", "3", "4"]
    for name in store.names("chunks"):
        content = store.get(f"chunks/{name}")
        assert content == content[:1] * 4_000_000


def test_check_writable_leaves_nothing(store_url: str) -> None:
    """A place that can be written passes the check and is empty afterwards."""
    store = ResultStore(f"{store_url}/minnie65").below("v1300/0123abcd")
    store.check_writable()
    assert store.names("") == []
    assert store.url == f"{store_url}/minnie65/v1300/0123abcd"


def test_a_folder_of_a_store(store_url: str) -> None:
    """It is a place like one that was opened by its own URL, also for its files, its listing and its parent."""
    store = ResultStore(f"{store_url}/minnie65/")
    below = store.below("v1300/0123abcd")
    below.put("chunks/a", b"x")
    alone = ResultStore(f"{store_url}/minnie65/v1300/0123abcd")
    assert below.url == alone.url
    assert below.url_of("chunks") == alone.url_of("chunks")
    assert alone.get("chunks/a") == store.get("v1300/0123abcd/chunks/a") == below.get("chunks/a") == b"x"
    assert below.names("chunks") == ["a"]
    assert store.names("") == ["v1300"]


def test_path_and_file_url_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a relative path and a file URL name the same folder."""
    monkeypatch.chdir(tmp_path)
    ResultStore(str(tmp_path / "results")).put("a", b"x")
    assert ResultStore(f"file://{tmp_path}/results/").get("a") == b"x"
    assert ResultStore("./results").get("a") == b"x"


def test_missing_file_is_named(store_url: str) -> None:
    """Reading what is not there says what, in one line."""
    store = ResultStore(store_url)
    with pytest.raises(StoreError, match=r"cannot read .*/plans/none\.parquet: ") as caught:
        store.get("plans/none.parquet")
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_named(store_url: str) -> None:
    """A file that is no Parquet file is named, with what to do."""
    store = ResultStore(store_url)
    store.put("chunks/a.parquet", parquet_bytes(pa.table({"a": [1]}))[:-5])
    with pytest.raises(StoreError, match=r"chunks/a\.parquet is no whole Parquet file .*; move it away"):
        list(get_tables(store, ["chunks/a.parquet"]))


def test_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    """A place whose parent is a file is refused."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write to .*/taken/results: Not a directory"):
        ResultStore(str(tmp_path / "taken" / "results")).check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    """A folder that this user may not write is refused."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied; check its permissions"):
        ResultStore(str(tmp_path / "results")).check_writable()


def test_no_such_bucket(s3_endpoint: str) -> None:  # noqa: ARG001
    """A bucket that is not there is named, also by a listing, which must not look like an empty folder."""
    store = ResultStore("s3://somatic-no-such-bucket/results")
    with pytest.raises(StoreError, match="there is no bucket s3://somatic-no-such-bucket; create it"):
        store.check_writable()
    with pytest.raises(StoreError, match="there is no bucket"):
        store.names("chunks")


def test_name_that_s3_forbids(s3_endpoint: str) -> None:  # noqa: ARG001
    """A name that no bucket can have is said to be one."""
    with pytest.raises(StoreError, match="S3 allows no such name"):
        ResultStore("s3://No Such Name/results").check_writable()


def test_wrong_credentials(s3_url: str) -> None:
    """An unknown access key is refused by the server and told as such."""
    with enable_iam_authentication(), pytest.raises(StoreError, match="Access Key Id .*check its permissions"):
        ResultStore(s3_url).check_writable()


def test_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any credentials it says how to give them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no credentials for s3://.*; set AWS_PROFILE"):
        ResultStore(s3_url).check_writable()


def test_silent_endpoint_is_given_up(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that takes the connection and never answers costs the time allowed, not more."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="for now: no answer in time; try again later"):
            ResultStore(s3_url).check_writable(timeout_s=1)
        assert time.monotonic() - start < 5


def test_endpoint_that_refuses(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens may be there later."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnavailable, match="Could not connect to the endpoint"):
        ResultStore(s3_url).check_writable()


@pytest.fixture
def answering_endpoint(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str]]]:  # noqa: ARG001
    """An endpoint of buckets that answers every request with the last status and error code put into the list."""
    answers: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # so that it answers "Expect: 100-continue"

        def do_GET(self) -> None:  # noqa: N802
            status, code = answers[-1]
            body = f"<Error><Code>{code}</Code><Message>made to fail</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        do_POST = do_PUT  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    # It would try for half a minute.
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda _error: False)
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", StoreUnavailable),
        (502, "BadGateway", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (403, "AccessDenied", StoreError),
        (400, "InvalidRequest", StoreError),
        (501, "NotImplemented", StoreError),
    ],
)
@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket"])
def test_errors_are_told_apart(
    answering_endpoint: list[tuple[int, str]], url: str, status: int, code: str, kind: type[Exception]
) -> None:
    """What may be gone later is transient, what will stay is permanent, for writing and for reading."""
    answering_endpoint.append((status, code))
    store = ResultStore(url)
    with pytest.raises(kind, match="cannot write .*(made to fail|ProxyError)"):
        store.put("chunks/a", b"x", patience_s=0)
    with pytest.raises(kind, match="cannot read .*(made to fail|ProxyError)"):
        store.get("chunks/a")


def test_a_busy_place_is_waited_for(s3_endpoint: str, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is not lost to a place that is busy for longer than the clients of S3 try."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with S3Proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = ResultStore(f"{s3_url}/busy")
        proxy.busy = True
        with pytest.raises(StoreUnavailable):
            store.put("chunks/a", b"x", patience_s=0)
        proxy.refuses = 2 * proxy.refused + 1
        store.put("chunks/a", b"x")
        assert proxy.refused == proxy.refuses
        # Nor is a file that is there written again because nobody could look for it.
        proxy.busy, proxy.refuses = True, proxy.refused + 2
        assert not store.put_new("chunks/a", b"y")
        assert proxy.refused == proxy.refuses
        assert store.get("chunks/a") == b"x"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nonsense://place", "Protocol not known: nonsense; results can be in a folder or at s3://"),
        ("simplecache::s3://bucket", "chained URLs cannot hold results"),
    ],
)
def test_unusable_url(url: str, text: str) -> None:
    """A URL that no file system serves is refused with its reason."""
    with pytest.raises(StoreError, match=text):
        ResultStore(url)


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/results", "s3:/key:hunter2@bucket/results"])
def test_password_in_url_is_refused_and_not_repeated(url: str) -> None:
    """A URL with a password is refused, and the message does not hold it."""
    with pytest.raises(StoreError, match=r"a password does not belong in a URL|did you mean s3://\.\.\.") as caught:
        ResultStore(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3:/bucket/x", "s3:/bucket/x: not a valid URL; did you mean s3://bucket/x?"),
        ("memory://x", "memory://x: nothing at memory:// outlives the process; choose a folder or a URL"),
        ("~nobody-at-all/x", "~nobody-at-all has no home folder; write the whole path"),
        ("github://x", "github://x: .*org.*; results can be in a folder or at s3://"),
        ("ftp://127.0.0.1:9/x", "Connection refused; results can be in a folder or at s3://"),
        ("a\0b", "contains a null character"),
        ("/a/\ud800", "surrogates not allowed"),
    ],
)
def test_a_place_that_is_not_meant(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that would lead elsewhere, or to a place that keeps nothing, is refused before anything is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=says) as caught:
        ResultStore(url)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_only_be_read() -> None:
    """A file system that cannot write at all is an error of the place."""

    class ReadOnly(fsspec.AbstractFileSystem):
        protocol = "readonly"

    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    with pytest.raises(StoreError, match="cannot write to readonly://host/x: NotImplementedError; check it or choose"):
        ResultStore("readonly://host/x").check_writable()


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_ENDPOINT_URL", "http://[::1"), ("AWS_MAX_ATTEMPTS", "x")],
)
def test_settings_of_s3_that_are_invalid(s3_url: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are said to be at fault, and not the place."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=r"the settings of S3 are invalid: .*; check AWS_ENDPOINT_URL"):
        ResultStore(s3_url).check_writable()


class _ArrayMemoryError(MemoryError):
    """As a library defines its own."""


@pytest.mark.parametrize("kind", [MemoryError, _ArrayMemoryError, TypeError, AssertionError, KeyError, RuntimeError])
@pytest.mark.parametrize("store_url", ["file", "s3"], indirect=True)
def test_faults_of_a_program_are_no_faults_of_a_place(
    store_url: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of memory or a mistake in a program stays what it is, whatever is done with a place."""
    store = ResultStore(store_url)
    store.put("a", b"x")

    def fail(*_: object, **__: object) -> None:
        raise kind("made to fail")

    monkeypatch.setattr(store, "_write", fail)
    monkeypatch.setattr(store, "_call", fail)
    for use in (
        lambda: store.put("a", b"x"),
        lambda: store.put_new("b", b"x"),
        lambda: store.get("a"),
        lambda: store.exists("a"),
        lambda: store.names(""),
        store.check_writable,
        lambda: store.copy("a", store.below("c")),
    ):
        with pytest.raises(kind, match="made to fail") as caught:
            use()
        assert type(caught.value) is kind


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_file_larger_than_the_memory(tmp_path: Path) -> None:
    """A file that does not fit into memory is a lack of memory, and not a place to be left."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    script = (
        "import resource, sys; from somatic.storage.store import ResultStore\n"
        "store = ResultStore(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "try: store.get('large')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert (ran.stdout, ran.stderr) == ("MemoryError\n", "")


def test_a_table_that_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack of memory of Arrow is none either: the file is whole, and nobody should move it away."""

    def fail(*_: object, **__: object) -> None:
        raise pa.lib.ArrowMemoryError("malloc of size 64 failed")

    data = parquet_bytes(pa.table({"a": [1]}))
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", fail)
    with pytest.raises(MemoryError, match="malloc"):
        table_from_parquet(data, "features.parquet")


def test_parquet_bytes_depend_on_the_values_only() -> None:
    """A table in pieces gives the bytes of the same table in one piece."""
    numbers = np.random.default_rng(0).normal(size=100_000)
    whole = pa.table({"number": numbers, "text": [f"{number:.2f}" for number in numbers]})
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 40_000), whole.slice(40_001)])
    assert parquet_bytes(pieces) == parquet_bytes(whole)
    assert parquet_bytes(pieces.slice(0, 500)) == parquet_bytes(whole.slice(0, 500))


def test_null_id_is_refused() -> None:
    """A column that must not be null cannot be written with a null in it."""
    schema = pa.schema([pa.field("nucleus_id", pa.int64(), nullable=False)])
    with pytest.raises(pa.ArrowInvalid, match="nucleus_id"):
        parquet_bytes(pa.table({"nucleus_id": pa.array([1, None])}, schema=schema))


def test_absent_column_is_named() -> None:
    """A file without a column that is asked for is named with the column."""
    with pytest.raises(StoreError, match=r"plan\.parquet has no column attempt"):
        table_from_parquet(parquet_bytes(pa.table({"a": [1]})), "plan.parquet", ["a", "attempt"])
