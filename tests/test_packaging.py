"""What an installed wheel holds."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_named() -> None:
    """They are listed one by one, and a new folder is easily forgotten: it then works from a clone
    and is missing from a wheel."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = [
        ".".join(init.parent.relative_to(ROOT).parts)
        for root in ("flows", "tasks", "schemas", "orpo_pipeline")
        for init in (ROOT / root).rglob("__init__.py")
    ]
    data_only = {"orpo_pipeline.data.embedded"}  # no module of its own
    assert set(named) - data_only == set(there) - data_only
