"""What a model card says: model_card.json beside the adapter, shown as README.md."""

from schemas.record import Record


class CardFigure(Record):
    """One line of the card's table of results, in words; intervals are of 95 %."""

    name: str
    base: str
    candidate: str
    difference: str
    """Candidate minus base, on the same pairs."""


class CardSource(Record):
    """A part of the data by the label that its rows carry."""

    name: str
    pairs: int


class ModelCard(Record):
    """Data, recipe, numbers and licence of one version."""

    model_name: str
    base_name: str
    base_address: str
    """What `from_pretrained` takes: a hub id, or a folder."""
    base_is_local: bool
    base_revision: str
    base_licence: str | None = None
    quantization: str
    dtype: str

    dataset_id: str
    prepared_id: str
    data_source: str
    """As the configuration names it."""
    data_hub_id: str | None = None
    data_licence: str | None = None
    rows_in: int
    train_pairs: int
    eval_pairs: int
    rows_quarantined: int
    duplicates: int
    sources: tuple[CardSource, ...] = ()

    adapter_id: str
    steps: int
    skipped_steps: int = 0
    """Steps that were left out because loss or gradient was not finite."""
    started_from: str | None = None
    """Number of the version whose weights it was trained on from; None: the base model."""
    recipe: dict[str, str]
    """Settings of the training by the names of their configuration fields."""

    eval_scored: int
    """Held-out pairs that the figures are over."""
    figures: tuple[CardFigure, ...]
    smallest_difference: float | None = None
    """Of pair accuracy, that so many pairs would have shown in four of five cases."""
    alarms: tuple[str, ...] = ()
    """What the evaluation warns of."""
    run_id: str


class Drift(Record):
    """How far merged weights have moved from base + adapter, on held-out pairs."""

    pairs: int
    tokens: int
    """Answer tokens, of chosen and rejected, that the mean is over."""
    mean_kl: float
    """Nats per token: KL(base + adapter || merged)."""
    verdict_flips: float
    """Share of pairs on which the two disagree which answer is more likely per token."""
    pairs_from: str
    """Where the pairs come from, as words."""
