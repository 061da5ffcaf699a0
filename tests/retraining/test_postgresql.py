"""Rows of a real PostgreSQL, whose types are more than text."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import PASSWORD, postgresql, programs
from sqlalchemy import create_engine, text

from orpo_pipeline.retraining.sql_rows import AT_ONCE, write_rows
from schemas.errors import EnvironmentFault
from schemas.retraining_config import SqlSource

VARIABLE = "VOTES_DATABASE_URL"
INSTALLED = programs()

pytestmark = pytest.mark.skipif(
    INSTALLED is None, reason="PostgreSQL is not installed (apt-get install postgresql)"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    assert INSTALLED is not None
    with postgresql(INSTALLED) as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "create table votes (id serial primary key, prompt jsonb, chosen text, "
                    "rejected text, score_chosen numeric(4, 2), at timestamptz)"
                )
            )
            connection.execute(
                text(
                    "insert into votes (prompt, chosen, rejected, score_chosen, at) select "
                    """'[{"role": "user", "content": "Naïve?"}]', 'Yes ' || n, 'No', 4.25, """
                    f"'2026-11-28 03:00+00' from generate_series(1, {AT_ONCE + 5}) n"
                )
            )
        engine.dispose()
        yield url


def source(query: str) -> SqlSource:
    return SqlSource(name="votes", database_url_variable=VARIABLE, query=query)


def test_conversations_numbers_and_times_arrive_as_json(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    query = "select prompt, chosen, rejected, score_chosen, at from votes order by id"
    assert write_rows(source(query), tmp_path / "rows.jsonl") == AT_ONCE + 5
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert first.pop("at").startswith("2026-11-28T")
    assert first == {
        "prompt": [{"role": "user", "content": "Naïve?"}],
        "chosen": "Yes 1",
        "rejected": "No",
        "score_chosen": 4.25,
    }
    assert json.loads(lines[-1])["chosen"] == f"Yes {AT_ONCE + 5}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (PASSWORD, f"{PASSWORD}-wrong", "password authentication failed"),
        ("/postgres", f"/{PASSWORD}", "does not exist"),
    ],
)
def test_what_the_server_says_is_told_without_the_password(
    old: str, new: str, said: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, url.replace(old, new))
    with pytest.raises(EnvironmentFault, match=said) as caught:
        write_rows(source("select 1 as one"), tmp_path / "rows.jsonl")
    assert PASSWORD not in str(caught.value)
