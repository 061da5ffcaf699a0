"""`ORPO_ARTIFACTS_URL`: an S3 bucket, or a store that speaks like one, for adapters and reports."""

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import UserError
from tasks.home import mlflow_artifacts

ARTIFACTS_VARIABLE = "ORPO_ARTIFACTS_URL"
ENDPOINT_VARIABLE = "MLFLOW_S3_ENDPOINT_URL"


def configured_artifacts() -> str | None:
    """`s3://BUCKET/PREFIX`, or None where it is not set. UserError for anything else."""
    given = os.environ.get(ARTIFACTS_VARIABLE)
    if not given:
        return None
    url = urlsplit(given)
    if url.scheme != "s3" or not url.netloc or "@" in url.netloc or url.query or url.fragment:
        raise UserError(
            f"{ARTIFACTS_VARIABLE} cannot be used (its value is not shown, it may hold a key).",
            "s3://BUCKET or s3://BUCKET/PREFIX.",
            f"Correct {ARTIFACTS_VARIABLE}. The keys stand in AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, the address of a store that is not Amazon's in "
            f"{ENDPOINT_VARIABLE}.",
        )
    if find_spec("boto3") is None:
        raise UserError(
            f"{ARTIFACTS_VARIABLE} is set, and the client of S3 is not installed.",
            "the package boto3.",
            "`pip install 'orpo-pipeline[s3]'`.",
        )
    return given.rstrip("/")


def artifact_location(home: Path) -> str:
    """Where new experiments of the state folder's own store keep their files."""
    return configured_artifacts() or mlflow_artifacts(home).as_uri()
