"""Known vulnerabilities of the installed packages, by pip-audit, where its data can be reached.

Offline it says so in one line and passes. pip-audit itself calls packages that it could not look up
"no known vulnerabilities"; here they are counted.
"""

import json
import subprocess
import sys

TIMEOUT_SECONDS = 120


def main() -> int:
    """0: nothing known, or it could not be looked up; 1: each finding has been printed."""
    command = ["pip_audit", "--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        lines, code = verdict(done.stdout)
    except subprocess.TimeoutExpired:
        lines, code = [f"pip-audit: not run, no answer in {TIMEOUT_SECONDS} s"], 0
    print("\n".join(lines))
    return code


def verdict(output: str) -> tuple[list[str], int]:
    """What to print for pip-audit's JSON (nothing when it could not run), and the exit code."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return ["pip-audit: not run, its data cannot be reached from here"], 0
    looked_up = [package for package in packages if "vulns" in package]
    if not looked_up:
        return ["pip-audit: not run, the package index here has no data on vulnerabilities"], 0
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, "
        f"mended in {', '.join(flaw['fix_versions']) or 'no release yet'}"
        for package in looked_up
        for flaw in package["vulns"]
    ]
    summary = f"pip-audit: {len(found)} known vulnerabilities in {len(looked_up)} packages"
    left = len(packages) - len(looked_up)
    return [*found, summary + (f", {left} could not be looked up" if left else "")], int(
        bool(found)
    )


if __name__ == "__main__":
    sys.exit(main())
