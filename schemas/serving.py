"""What a registered version needs to answer as it was evaluated: its serving.json."""

from schemas.record import Record


class ServingSettings(Record):
    """The base model and the way it is held in memory."""

    base_model: str
    """What `from_pretrained` takes: a hub id, or a folder on the machine that trained."""
    base_is_local: bool
    base_name: str
    """As a person knows it."""
    base_revision: str
    """Hub commit, or the SHA-256 of the weights."""
    stop_token_ids: tuple[int, ...]
    dtype: str
    quantization: str
    """`nf4` or `none`."""

    @property
    def memory(self) -> tuple[str, str, str]:
        """Versions with the same value can share one base model in memory."""
        return self.base_revision, self.dtype, self.quantization


class Sampling(Record):
    """How an answer is drawn."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0: the most likely token each time (greedy)."""
    top_p: float = 1.0
    """Sample from the most likely tokens that together have this probability."""
    seed: int = 0
