"""Model and data-set snapshots from the Hugging Face hub."""

import re
from pathlib import Path
from typing import Literal

from schemas.errors import EnvironmentFault, UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def looks_like_hub_id(name: str) -> bool:
    """Whether `name` has the form OWNER/NAME."""
    return HUB_ID.fullmatch(name) is not None


def download_snapshot(
    repo_id: str, revision: str | None, kind: Literal["model", "dataset"], patterns: list[str]
) -> Path:
    """Folder of a snapshot in the hub cache, named by its commit. Downloads what is missing.

    Raises UserError when the repository or revision does not exist or is closed to this user,
    EnvironmentFault when the hub cannot be reached and the snapshot is not cached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo_id, revision=revision, repo_type=kind, allow_patterns=patterns
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UserError(
            f"The hub has no {kind} {repo_id} at revision {revision or 'main'}, or it is closed.",
            "an existing, readable hub id and revision.",
            "Correct the id, accept its licence on the hub, or set HF_TOKEN.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        because = str(error).partition("\n")[0]
        raise EnvironmentFault(
            f"The {kind} {repo_id} is not in the hub cache and cannot be downloaded: {because}",
            "a network connection to the hub, or a local folder.",
            f"Connect, or download it elsewhere and give its folder instead of {repo_id}.",
        ) from error
    return Path(folder)


def cached_snapshot(
    repo_id: str, revision: str | None, kind: Literal["model", "dataset"]
) -> Path | None:
    """Folder of a snapshot that is in the hub cache, perhaps not with all its files; else None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(repo_id, revision=revision, repo_type=kind, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def has_token() -> bool:
    """Whether requests to the hub carry a token: HF_TOKEN, or that of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token() is not None
