"""The configuration's section `retention`: what stays on the disk."""

from typing import Literal

from pydantic import Field

from schemas.section import Section


class RetentionConfig(Section):
    """What stays when a retraining has ended, or `orpo-pipeline prune` is called. See
    docs/retention.md."""

    keep_versions: int = Field(default=5, ge=1)
    """Newest versions of each registered model whose files stay, beside `champion`, `previous` and
    `challenger`."""

    keep_looks: int = Field(default=3, ge=1)
    """Newest snapshots and newest prepared data that stay, beside those of the kept versions."""

    unfinished_days: float = Field(default=14, ge=0, allow_inf_nan=False)
    """Days after which a training or an evaluation that nobody has continued is given up: its
    checkpoints and what it was made from go, and a retry in Prefect begins anew."""

    registered_adapters: Literal["keep", "delete"] = "keep"
    """Weights in the registry of versions that are not kept. `delete`: the disk stays flat, and
    such a version can't be promoted, served or exported any more; its figures, reports and row ids
    stay."""

    log_megabytes: float = Field(default=16, gt=0, allow_inf_nan=False)
    """A log of the state folder that is longer becomes `NAME.log.1`, in place of the one before."""
