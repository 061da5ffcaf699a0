"""MLflow: the registered model's signature, and a version's files on this disk."""

from pathlib import Path
from typing import Any


def chat_signature() -> Any:
    """`messages` (role and content) in, text out; how to answer as parameters.

    A request in OpenAI's chat format names a `model`, and then gets a chat completion.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    text, whole, real = DataType.string, DataType.long, DataType.double
    message = Object([Property("role", text), Property("content", text)])
    return ModelSignature(
        inputs=Schema([ColSpec(Array(message), "messages")]),
        outputs=Schema([ColSpec(text)]),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", whole, 256),
                ParamSpec("max_tokens", whole, None),  # OpenAI's name for the same
                ParamSpec("temperature", real, 0.0),
                ParamSpec("top_p", real, 1.0),
                ParamSpec("seed", whole, 0),
                ParamSpec("model", text, None),
            ]
        ),
    )


def download_adapter(uri: str, model_name: str, version: str, folder: Path) -> Path:
    """Bring a version's adapter folder (with tokenizer and serving.json) below `folder`."""
    import mlflow
    from mlflow.artifacts import download_artifacts

    # What a version's source means, `models:/m-ID`, is looked up in the process's own store.
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    found = download_artifacts(
        artifact_uri=f"models:/{model_name}/{version}",
        dst_path=str(folder),
        tracking_uri=uri,
        registry_uri=uri,
    )
    return Path(found) / "artifacts" / "adapter"
