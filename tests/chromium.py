"""Pages looked at in headless Chromium, without a network; tests are skipped where it is missing."""

import contextlib
import html
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sessions import once_a_session

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
)
_ASK = """<script>addEventListener("load", () => Promise.resolve((%s)).then((answer) => {
const out = document.createElement("pre"); out.id = "answer"; out.hidden = true;
out.textContent = JSON.stringify(answer); document.body.append(out); }));</script>"""

needs_chromium = pytest.mark.skipif(_CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


def look_at(page: Path, question: str, script: str = "", *flags: str) -> tuple[Any, list[str]]:
    """Open a page, and ask it something when it has loaded.

    Parameters
    ----------
    page : Path
        An HTML file.
    question : str
        JavaScript expression, or a promise, of what JSON can hold.
    script : str
        JavaScript that is put into the page before.
    flags : str
        Further flags of Chromium.

    Returns
    -------
    answer : object
    errors : list of str
        What the page wrote to the console.
    """
    assert _CHROMIUM
    text = page.read_text()
    asked = page.with_name(f"asked-{page.name}")
    asked.write_text(text.replace("</body>", f"<script>{script}</script>{_ASK % question}</body>"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ran = subprocess.run(
            [_CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", asked.absolute().as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    asked.unlink()
    found = re.search(r'<pre id="answer"[^>]*>(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr[-2000:]
    errors = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), errors


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, by npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine, so no axe-core")
    with once_a_session(tmp_path_factory, "axe") as folder:
        if not folder.exists():
            folder.mkdir()
            command = [npm, "pack", "axe-core@4", "--silent"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    packed = list(folder.glob("axe-core-*.tgz"))
    if not packed:
        pytest.skip("npm could not fetch axe-core")
    with tarfile.open(packed[0]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source
        return source.read().decode()


AXE = "axe.run().then((r) => r.violations.map((v) => [v.id, v.impact, v.nodes.map((n) => n.html.slice(0, 200))]))"
"""Question that gives what axe-core finds wrong: rule, impact, elements."""


def serious(violations: list[list[Any]]) -> list[list[Any]]:
    """Those of the faults that keep a person from using the page."""
    return [fault for fault in violations if fault[1] in ("serious", "critical")]
