"""docs/rules.md says of every code what schemas.pairs does."""

import re
from pathlib import Path

from schemas.config import RunConfig
from schemas.pairs import DefectCode, Severity

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")


def test_every_code_stands_on_the_page_once_with_its_severity() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([a-z]+) \|", PAGE, flags=re.MULTILINE)
    assert sorted(rows) == sorted((code.value, code.severity.value) for code in DefectCode)


def test_every_severity_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \| (?:is|has) ", PAGE, flags=re.MULTILINE)
    assert explained == [severity.value for severity in Severity]


def test_options_are_fields_of_the_configuration() -> None:
    named = set(re.findall(r"`(data|chat)\.(\w+)", PAGE))
    assert ("data", "secrets") in named
    for section, field in named:
        assert field in RunConfig.model_fields[section].annotation.model_fields
