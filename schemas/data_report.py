"""The data report: what came in, what became of it, and what the kept pairs look like.

`report.json` of a prepared stage is this record. It depends on the data and the configuration
alone: preparing the same rows again gives the same bytes.
"""

from pydantic import BaseModel, ConfigDict

from schemas.pairs import DefectCode, Severity


class Part(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileSummary(Part):
    """One source file."""

    name: str
    split: str
    dialect: str
    rows: int
    kept: int
    quarantined: int
    duplicates: int


class Example(Part):
    """One row that shows a defect."""

    origin: str
    """file:row"""
    row_id: str | None
    """None where the row could not be read as a pair."""
    reason: str
    text: str
    """The row's beginning, as JSON or as it stood in the file."""


class DefectSummary(Part):
    """All rows with one defect."""

    code: DefectCode
    severity: Severity
    rows: int
    examples: tuple[Example, ...]
    """At most three."""


class Histogram(Part):
    """Counts between edges: counts[i] lies in [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float
    p95: float
    longest: float
    total: float


class Interval(Part):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Bias(Part):
    """How well something other than quality tells chosen from rejected.

    `auc` is the chance that the chosen answer has more of it than the rejected one, ties counting
    half: 0.5 is none.
    """

    name: str
    auc: Interval
    pairs: int
    """Kept pairs whose answers differ in it."""


class SourceSummary(Part):
    """The kept pairs of one `source` label."""

    source: str
    pairs: int
    chosen_longer_share: float
    median_tokens: float
    """Of prompt + the longer answer."""


class DataReport(Part):
    """rows_in = kept_train + kept_eval + quarantined + duplicates."""

    prepared_id: str
    dataset_id: str
    tokenizer: str
    """Name of the base model whose tokenizer and template were used."""
    max_length: int
    rows_in: int
    kept_train: int
    kept_eval: int
    duplicates: int
    quarantined: int
    """Rows with a defect of severity drop or quarantine."""
    files: tuple[FileSummary, ...]
    defects: tuple[DefectSummary, ...]
    """All four severities, most rows first."""
    tokens: dict[str, Histogram]
    """`prompt`, `chosen`, `rejected`, and `longest` (prompt + longer answer) of the kept pairs."""
    score_margins: Histogram | None
    """chosen - rejected of the kept, scored pairs."""
    biases: tuple[Bias, ...]
    """length, and one for each mark of format (lists, headings, code, bold)."""
    sources: tuple[SourceSummary, ...]
    """Most pairs first, at most 20; the others under `(others)`."""
    prompts: int
    """Distinct prompts among the kept pairs."""
    prompt_groups: int
    """Groups of equal or near-equal prompts, or turns of one dialogue, among them."""
    largest_groups: tuple[tuple[str, int], ...]
    """The beginning of a prompt and the number of kept pairs of its group; at most five."""
