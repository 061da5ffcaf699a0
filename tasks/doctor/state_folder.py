"""The state folder: can it be written, is it local, has it space, what is broken in it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from orpo_pipeline.planning.memory import GIB, describe_bytes
from orpo_pipeline.stages import MANIFEST, is_abandoned
from schemas.errors import EnvironmentFault
from schemas.findings import Finding
from tasks.home import HOME_VARIABLE, enable_wal
from tasks.process_group import belongs_to_up, find_processes
from tasks.servers_file import read_servers_file, running_servers

NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "lustre", "gluster", "fuse.sshfs", "beegfs", "afs")
ALWAYS_FREE = GIB
"""Room for databases, logs and what is written meanwhile."""
LISTED = 3


def check_writable(home: Path) -> Finding:
    """Try what every run does: make files there, and a database that several processes share."""
    there = _nearest(home)
    fix = f"Correct the permissions, or set {HOME_VARIABLE} to a folder on a local disk."
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor.", dir=there) as scratch:
            enable_wal(Path(scratch) / "try.db")
    except OSError as error:
        return Finding.error("state folder", f"{home} cannot be written: {error}", fix)
    except EnvironmentFault as error:
        return Finding.error("state folder", f"{home}: {error.found}", fix)
    kind = _file_system(there)
    if kind.startswith(NETWORK):
        return Finding.error(
            "state folder",
            f"{home} is on a network file system ({kind}), where SQLite's locks do not hold",
            fix,
        )
    new = "" if home.exists() else "; it is made by the first run"
    return Finding.ok("state folder", f"{home} can be written ({kind or 'unknown'}, WAL){new}")


def check_disk(home: Path, needs: dict[str, float]) -> Finding:
    """Free space against what a run writes."""
    free = shutil.disk_usage(_nearest(home)).free
    need = sum(needs.values()) + ALWAYS_FREE
    parts = ", ".join(f"{name} {describe_bytes(size)}" for name, size in needs.items() if size)
    found = f"{describe_bytes(free)} free, about {describe_bytes(need)} needed"
    found += f" ({parts}; {describe_bytes(ALWAYS_FREE)} for the rest)" if parts else ""
    fix = f"Free space, or set {HOME_VARIABLE} to a folder on a larger disk."
    if free < need:
        return Finding.error("disk", found, fix)
    if free < 2 * need:
        return Finding.warning("disk", found, fix + " One more training may not fit.")
    return Finding.ok("disk", found)


def check_leftovers(home: Path) -> Finding:
    """What killed processes left. None of it stops a run."""
    found, fixes = [], []
    servers = read_servers_file(home)
    if servers and not running_servers(home):
        found.append(f"`up` (process {servers.supervisor.pid}) was killed")
        if processes := find_processes(home, belongs_to_up):
            pids = ", ".join(str(process.pid) for process in processes)
            found.append(f"and left the processes {pids}")
        fixes.append("`orpo-pipeline up` ends and clears what it left")
    half = [path for path in home.glob("*/.*.*.*") if _is_abandoned(path)]
    if half:
        found.append(_count("half-written folders", half))
        fixes.append("remove them, or leave it to the next stage of that name")
    damaged = [*home.glob("*/*.damaged"), *home.glob("*/*/*.damaged")]
    if damaged:
        found.append(_count("damaged stages set aside", damaged))
        fixes.append("look at the disk, which gave other bytes than were written; remove them")
    if not found:
        return Finding.ok("leftovers", "nothing half-written, nothing damaged, no stale process")
    fix = "; ".join(fixes)
    return Finding.warning("leftovers", "; ".join(found), f"{fix[0].upper()}{fix[1:]}.")


def check_unfinished(home: Path) -> Iterator[Finding]:
    """Trainings that were cut off; the same command continues them."""
    left = [p.parent for p in home.glob("training/*/checkpoint-*") if (p / MANIFEST).is_file()]
    if left:
        names = _count("trainings with checkpoints", sorted(set(left)))
        yield Finding.ok("unfinished", f"{names}: running, or the same command continues them")


def _is_abandoned(path: Path) -> bool:
    try:
        return is_abandoned(path)
    except OSError:
        return False


def _count(what: str, paths: list[Path]) -> str:
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in sorted(paths)[:LISTED])
    return f"{len(paths)} {what} ({names}{', ...' if len(paths) > LISTED else ''})"


def _nearest(home: Path) -> Path:
    """The folder, or the one above it in which it would be made."""
    return next(folder for folder in (home, *home.parents) if folder.exists())


def _file_system(folder: Path) -> str:
    """As /proc/mounts names its type; empty when that is not known."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    real = folder.resolve()
    return next((mounts[str(f)] for f in (real, *real.parents) if str(f) in mounts), "")
