"""Limits on memory as containers, Slurm and systemd set them, in trees of control groups like theirs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from somatic.workers import cgroups
from somatic.workers.cgroups import CgroupMemory, cgroup_memory

GIB = 2**30
NO_LIMIT = 2**63 - 4096
"""What version 1 says where there is none."""

Here = Callable[..., None]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Put this process into a group, of a hierarchy that is mounted in `tmp_path / "mount point"`."""
    (tmp_path / "mount point").mkdir()
    monkeypatch.setattr(cgroups, "_PROC", tmp_path)

    def here(lines: str, *, version: int, root: str = "/") -> None:
        kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory")
        mount = str(tmp_path / "mount point").replace(" ", "\\040")
        (tmp_path / "cgroup").write_text(lines)
        (tmp_path / "mountinfo").write_text(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
            "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            f"31 23 0:28 {root} {mount} rw,nosuid shared:9 - {kind} {kind} {options}\n"
        )

    return here


def group(path: Path, limit: int | str, used: int, *, high: str = "max", active: int = 0, inactive: int = 0) -> None:
    """Write the files of a group of version 2."""
    path.mkdir(parents=True, exist_ok=True)
    files = {"max": limit, "high": high, "current": used}
    for name, value in files.items():
        (path / f"memory.{name}").write_text(f"{value}\n")
    (path / "memory.stat").write_text(f"anon 1\nfile 7\ninactive_file {inactive}\nactive_file {active}\n")


def group_1(path: Path, limit: int, used: int, *, cached: int = 0, of_tree: int = NO_LIMIT) -> None:
    """Write the files of a group of version 1."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (path / "memory.usage_in_bytes").write_text(f"{used}\n")
    (path / "memory.stat").write_text(
        f"inactive_file 1\nactive_file 1\nhierarchical_memory_limit {min(limit, of_tree)}\n"
        f"total_inactive_file {cached}\ntotal_active_file {cached}\n"
    )


def test_a_container(here: Here, tmp_path: Path) -> None:
    """Its own group is the root; files that are cached, the active ones too, are not used memory."""
    here("0::/\n", version=2)
    group(tmp_path / "mount point", 4 * GIB, 3 * GIB, active=GIB, inactive=GIB // 2)
    assert list(cgroup_memory()) == [CgroupMemory(4 * GIB, 3 * GIB - GIB - GIB // 2)]


def test_a_job_of_slurm(here: Here, tmp_path: Path) -> None:
    """The limit is that of the job, two levels above the step that the process is in."""
    here("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", version=2)
    job = tmp_path / "mount point/system.slice/slurmstepd.scope/job_7"
    group(job, 8 * GIB, 5 * GIB)
    group(job / "step_0", "max", 4 * GIB)
    group(job / "step_0/user/task_0", "max", 3 * GIB)
    group(job.parent, "max", 50 * GIB)
    assert list(cgroup_memory()) == [CgroupMemory(8 * GIB, 5 * GIB)]


def test_a_job_of_slurm_in_version_1(here: Here, tmp_path: Path) -> None:
    """The same where Slurm uses the older interface, beside other hierarchies."""
    here("5:cpu,cpuacct:/\n4:memory:/slurm/uid_1/job_7/step_0\n1:name=systemd:/init\n0::/\n", version=1)
    slurm = tmp_path / "mount point/slurm/uid_1"
    group_1(slurm / "job_7/step_0", NO_LIMIT, 3 * GIB, of_tree=8 * GIB)
    group_1(slurm / "job_7", 8 * GIB, 5 * GIB, cached=GIB)
    group_1(slurm, NO_LIMIT, 5 * GIB)
    found = list(cgroup_memory())
    assert min(found) == CgroupMemory(8 * GIB, 3 * GIB)
    assert CgroupMemory(8 * GIB, 3 * GIB) in found[1:]


def test_slices_of_systemd(here: Here, tmp_path: Path) -> None:
    """Each has its own limit and its own use; where processes are slowed down counts as a limit."""
    here("0::/user.slice/user-1.slice/run.scope\n", version=2)
    users = tmp_path / "mount point/user.slice"
    group(users, 64 * GIB, 60 * GIB)
    group(users / "user-1.slice", 16 * GIB, 2 * GIB, high=str(12 * GIB))
    group(users / "user-1.slice/run.scope", "max", GIB)
    assert list(cgroup_memory()) == [CgroupMemory(12 * GIB, 2 * GIB), CgroupMemory(64 * GIB, 60 * GIB)]


@pytest.mark.parametrize(
    ("path", "root"), [("/docker/abc", "/docker/abc"), ("/../../elsewhere", "/"), ("/docker/abc", "/kubepods/def")]
)
def test_a_container_that_sees_its_path_outside(path: str, root: str, here: Here, tmp_path: Path) -> None:
    """Its group is where the hierarchy is mounted, whatever it is called elsewhere."""
    here(f"4:memory:{path}\n", version=1, root=root)
    group_1(tmp_path / "mount point", 4 * GIB, 3 * GIB, cached=GIB)
    assert list(cgroup_memory()) == [CgroupMemory(4 * GIB, GIB)]


def test_a_limit_above_what_a_container_sees(here: Here, tmp_path: Path) -> None:
    """Version 1 states it in the statistics of the group."""
    here("4:memory:/docker/abc\n", version=1, root="/docker/abc")
    group_1(tmp_path / "mount point", NO_LIMIT, 3 * GIB, of_tree=6 * GIB)
    assert list(cgroup_memory()) == [CgroupMemory(6 * GIB, 3 * GIB)]


def test_nothing_that_can_be_read(here: Here, tmp_path: Path) -> None:
    """No limit, a group that is gone, half a file, a kernel without control groups: the machine is the limit."""
    here("0::/a\n", version=2)
    assert list(cgroup_memory()) == []
    group(tmp_path / "mount point/a", "max", GIB)
    assert list(cgroup_memory()) == []
    group(tmp_path / "mount point/a", GIB, GIB)
    (tmp_path / "mount point/a/memory.stat").write_text("anon 1\n")
    assert list(cgroup_memory()) == []
    (tmp_path / "cgroup").unlink()
    assert list(cgroup_memory()) == []
