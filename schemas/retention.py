"""What pruning found and did."""

from schemas.record import Record


class Removal(Record):
    """Things of one kind that nothing needs any more."""

    kind: str
    count: int
    bytes: int
    """That the disk gets back: a file that is linked from what stays frees nothing."""


class PruneResult(Record):
    """What one prune removed, or would remove."""

    removed: tuple[Removal, ...]
    pruned_versions: tuple[str, ...] = ()
    """`MODEL/NUMBER` whose weights were deleted from the registry."""

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removed)
