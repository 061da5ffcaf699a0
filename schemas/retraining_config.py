"""The configuration's section `retraining`: what is watched, and when a training is worth it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from schemas.section import Section

SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class FilesSource(Section):
    """A folder that files land in, a single file, or a glob."""

    kind: Literal["files"] = "files"
    """This kind."""

    name: SourceName
    """Letters, digits, dash and underscore. What was seen of the source is kept under it."""

    path: str
    """Folder, file or glob. Empty or missing, it is an error: a feed that vanished must not look
    like a deletion."""


class HubSource(Section):
    """A data set of the hub, as it is at a revision."""

    kind: Literal["hub"] = "hub"
    """This kind."""

    name: SourceName
    """Letters, digits, dash and underscore. What was seen of the source is kept under it."""

    dataset: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    """OWNER/NAME."""

    revision: str | None = None
    """Commit, tag or branch. Unset: the newest commit, looked up each time."""


class SqlSource(Section):
    """The rows that a query gives, through SQLAlchemy."""

    kind: Literal["sql"] = "sql"
    """This kind."""

    name: SourceName
    """Letters, digits, dash and underscore. What was seen of the source is kept under it."""

    database_url_variable: VariableName
    """Name of the environment variable with the database's URL, such as `VOTES_DATABASE_URL`. The
    URL itself, which may hold a password, stands in no configuration."""

    query: str = Field(min_length=1, max_length=5000)
    """A SELECT whose columns are those of a dialect. Order it by something that only grows, such
    as the primary key: then only new rows are checked."""

    json_columns: tuple[str, ...] = ()
    """Columns that hold JSON as text, such as conversations in SQLite."""


WatchedSource = Annotated[FilesSource | HubSource | SqlSource, Field(discriminator="kind")]


class RetrainingConfig(Section):
    """When `orpo-retrain` trains again, and on what. docs/retrain.md says how it decides."""

    sources: tuple[WatchedSource, ...] = ()
    """What is watched, and trained on together. None: `data.source`, under the name `data`."""

    min_new_rows: int = Field(default=200, ge=1)
    """New accepted rows from which a training is worth it."""

    max_age_days: float = Field(default=30, gt=0, allow_inf_nan=False)
    """Days since the champion was registered, or since the last training where that is later, after
    which any change of the data is enough."""

    max_length_drift: float = Field(default=0.1, gt=0, le=1)
    """Kolmogorov-Smirnov distance of the prompt lengths (tokens) of new and known rows."""

    max_mix_drift: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Population stability index of the rows' origins, new against known rows."""

    max_acceptance_drift: float = Field(default=0.1, gt=0, le=1)
    """Difference of the shares of rows that preparation accepts, new against known rows."""

    drift_alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Probability of calling chance a drift, for each of the three: a few new rows differ from the
    known ones by chance alone."""

    start: Literal["base", "champion"] = "base"
    """What a training begins from: the base model, on all rows; or the champion's adapter, on the
    rows that it has not seen and a share of those that it has. Without a champion it is the base
    model, and the run says so."""

    replay_share: float = Field(default=0.2, ge=0, le=1)
    """With `start: champion`: share of the rows which the champion has seen that is trained on
    again. Which ones is decided by content."""

    @field_validator("sources")
    @classmethod
    def _have_names_of_their_own(
        cls, sources: tuple[WatchedSource, ...]
    ) -> tuple[WatchedSource, ...]:
        names = [source.name.lower() for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is the name of several sources")
        return sources
