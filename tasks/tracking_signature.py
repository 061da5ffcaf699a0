"""MLflow: what the registered model takes and gives."""

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
