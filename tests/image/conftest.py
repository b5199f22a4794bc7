"""The image, built from this checkout with buildah on a base of Debian's own packages."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, buildah

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/somatic-test"
# The certificates with which this machine reaches the package index; they are mounted, so the image has none of them.
_ARGUMENTS = "--network host --volume /etc/ssl/certs:/etc/ssl/certs:ro"
_TOOLS = ("buildah", "debootstrap", "unshare")


@pytest.fixture(scope="session")
def commit_before() -> str:
    """How git described this checkout before the build, which takes minutes."""
    return describe_checkout()


@pytest.fixture(scope="session")
def container(commit_before: str) -> Iterator[Container]:  # noqa: ARG001 - asked first
    """A container of the image, for all tests."""
    if os.environ.get("SOMATIC_TEST_IMAGE") != "1":
        pytest.skip("building the image takes minutes: set SOMATIC_TEST_IMAGE=1 to have it tested")
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        pytest.skip(f"{', '.join(missing)} missing: apt-get install buildah debootstrap util-linux")
    if os.geteuid() != 0:
        pytest.skip("debootstrap and chroot need root")
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    subprocess.run(
        ["make", "image", "BUILDER=buildah", "BASE=debootstrap", f"IMAGE={IMAGE}", f"IMAGE_ARGS={_ARGUMENTS}"],
        cwd=ROOT,
        check=True,
    )
    name = buildah("from", "--pull-never", IMAGE)
    try:
        yield Container.of(name)
    finally:
        buildah("rm", name)


@pytest.fixture(scope="session")
def demo(container: Container) -> str:
    """What `somatic demo` says in the container; its folder is /work/somatic-demo."""
    return container.run("somatic", "demo", within_s=600)


def describe_checkout() -> str:
    """The commit, and whether files differ from it."""
    command = ["git", "describe", "--always", "--exclude", "*", "--abbrev=12", "--dirty=.dirty"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
