"""An S3 server on 127.0.0.1: moto's, in a process of its own, spoken to over HTTP."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from servers import free_port, wait_for

from tasks import prefect_api

SECRET_KEY = "planted-s3-key-51c7"
BUCKET = "models"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment in which a client finds the server and its bucket."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ACCESS_KEY_ID": "planted-id",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "ORPO_ARTIFACTS_URL": f"s3://{BUCKET}/orpo",
    }
    try:
        wait_for(lambda: prefect_api.answers(f"{endpoint}/moto-api/"), 60)
        client(environment).create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        process.kill()
        process.wait(10)


def client(environment: dict[str, str]):  # type: ignore[no-untyped-def]  # boto3 has no types
    """boto3's client of that server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
