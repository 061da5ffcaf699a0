"""Python, packages, device and clock."""

import importlib.resources
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orpo_pipeline.planning.memory import describe_bytes
from schemas.findings import Finding
from schemas.hardware import Probe

PACKAGE = "orpo-pipeline"
PYTHONS = ((3, 11), (3, 12))
RELEASED = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_TOLERANCE_SECONDS = 300
LISTED = 6


def check_python() -> Finding:
    """The interpreter's version."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info[:2] in PYTHONS:
        return Finding.ok("python", found)
    fix = "Make a new environment with Python 3.11 or 3.12."
    return Finding.error("python", found, fix)


def check_packages() -> Iterator[Finding]:
    """What is installed, against what this release asks for and what it was tested with."""
    if _installed(PACKAGE) is None:
        yield Finding.warning(
            "packages", f"{PACKAGE} itself is not installed", "pip install --editable ."
        )
        return
    needed = [r for r in map(Requirement, requires(PACKAGE) or ()) if _is_needed(r)]
    wrong = [problem for one in needed if (problem := _problem(one))]
    if wrong:
        yield Finding.error(
            "packages", "; ".join(wrong), f"pip install --constraint constraints.txt {PACKAGE}"
        )
    tested = tested_versions()
    other = []
    for one in needed:
        name, found = canonicalize_name(one.name), _installed(one.name)
        if found and name in tested and _public(found) != tested[name]:
            other.append(f"{name} {found} (tested: {tested[name]})")
    if other:
        more = f" and {len(other) - LISTED} more" if len(other) > LISTED else ""
        yield Finding.warning(
            "packages",
            f"{len(other)} of {len(needed)} are not as tested: {', '.join(other[:LISTED])}{more}",
            "It may work. If something odd happens, install the versions of constraints.txt.",
        )
    elif not wrong:
        yield Finding.ok("packages", f"all {len(needed)} direct ones are as tested")


def tested_versions() -> dict[str, str]:
    """Version by package: the list that CI installs, which travels with the package."""
    listed = importlib.resources.files("orpo_pipeline").joinpath("tested.txt")
    lines = (line for line in listed.read_text(encoding="utf-8").splitlines() if "==" in line)
    pairs = (line.strip().split("==") for line in lines)
    return {canonicalize_name(name): found for name, found in pairs}


def _is_needed(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _problem(requirement: Requirement) -> str | None:
    found = _installed(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} {found} is installed, and {requirement.specifier} is needed"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _public(found: str) -> str:
    return found.split("+")[0]


def describe_machine(here: Probe) -> Iterator[Finding]:
    """What training could run on."""
    yield Finding.ok("device", f"{here.name}, {describe_bytes(here.memory)}; torch {here.torch}")
    isa = ", ".join(sorted(here.cpu_isa)) or "no known CPU extension"
    yield Finding.ok("host", f"{here.cpu_cores} cores, {describe_bytes(here.ram)}, {isa}")


def check_clock(home: Path) -> Finding:
    """A clock that went back confuses schedules, ages and file times; servers refuse its times."""
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    fix = "Set the clock (NTP: `timedatectl set-ntp true`)."
    if now < RELEASED.timestamp():
        return Finding.error("clock", f"{shown}, which is before this release was made", fix)
    newest = max(_times(home), default=now)
    if newest > now + CLOCK_TOLERANCE_SECONDS:
        ahead = (newest - now) / 3600
        return Finding.warning(
            "clock", f"{shown}, and the state folder has files from {ahead:,.1f} h later", fix
        )
    return Finding.ok("clock", shown)


def _times(home: Path) -> Iterator[float]:
    """When things directly in the state folder and in its folders were last written."""
    for pattern in ("*", "*/*"):
        for path in home.glob(pattern):
            try:
                yield path.stat().st_mtime
            except OSError:  # removed meanwhile
                continue
