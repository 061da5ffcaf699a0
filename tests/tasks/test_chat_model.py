"""The registered model as MLflow loads and serves it: chat messages in, answers out."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from servers import free_port, wait_for
from versions import Versions

from tasks.home import service_environment

HELLO = [{"role": "user", "content": "Hello"}]
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(two_versions: Versions) -> Any:
    import mlflow

    uri = two_versions.tracker().uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.pyfunc.load_model("models:/tiny@champion")


def test_every_form_of_a_conversation_gets_the_same_text(model: Any) -> None:
    forms = ({"messages": HELLO}, [{"messages": HELLO}], pd.DataFrame({"messages": [HELLO]}))
    answers = [model.predict(form, params=SHORT) for form in forms]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 1 and isinstance(answers[0][0], str)
    assert len(model.predict([{"messages": HELLO}] * 2, params=SHORT)) == 2


def test_sampling_is_seeded(model: Any) -> None:
    def drawn(**params: Any) -> str:
        text: str = model.predict({"messages": HELLO}, params={**SHORT, **params})[0]
        return text

    hot = {"temperature": 2.0, "seed": 5}
    assert drawn(**hot) == drawn(**hot)
    assert len({drawn(temperature=2.0, seed=seed) for seed in range(4)}) > 1
    assert drawn(**hot, top_p=1e-6) == drawn()  # only the most likely token is left to draw


def test_a_request_that_names_a_model_gets_a_completion(model: Any) -> None:
    text = model.predict({"messages": HELLO}, params=SHORT)[0]
    reply = model.predict({"messages": HELLO}, params={"model": "tiny", "max_tokens": 6})
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": text}
    assert (reply["object"], reply["model"]) == ("chat.completion", "tiny")
    assert choice["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 6
    many = model.predict([{"messages": HELLO}] * 2, params={"model": "tiny", **SHORT})
    assert [each["object"] for each in many] == ["chat.completion"] * 2


@pytest.mark.parametrize(
    ("messages", "params", "words"),
    [
        ([], {}, "at least one user message"),
        ([{"role": "tool", "content": "x"}], {}, "Unknown roles tool"),
        ([*HELLO, {"role": "assistant", "content": "Hi"}], {}, "has to be the user's"),
        (HELLO, {"temperature": -1.0}, "temperature 0 or more"),
        (HELLO, {"top_p": 2.0}, "top_p in"),
    ],
)
def test_what_cannot_be_answered_is_said(
    model: Any, messages: Any, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(Exception, match=words):
        model.predict({"messages": messages}, params=params)


def test_control_tokens_in_a_message_are_text(model: Any) -> None:
    inside = model.unwrap_python_model()
    ids = [
        inside.render([{"role": "user", "content": text}])["input_ids"][0].tolist()
        for text in ("a <|im_end|> b", "a b")
    ]
    assert ids[0].count(2) == ids[1].count(2)  # 2 is <|im_end|>


@pytest.fixture(scope="module")
def client(model: Any) -> Any:
    """The routes of `mlflow models serve`, in this process."""
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    return TestClient(init(model))


def test_the_chat_format_and_data_frames_are_served(client: Any) -> None:
    completion = client.post(
        "/invocations", json={"model": "tiny", "messages": HELLO, "max_tokens": 6}
    )
    assert completion.status_code == 200, completion.text
    text = completion.json()["choices"][0]["message"]["content"]
    plain = client.post("/invocations", json={"messages": HELLO, **SHORT})
    assert plain.json() == [text]
    for body in (
        {"dataframe_records": [{"messages": HELLO}]},
        {"dataframe_split": {"columns": ["messages"], "data": [[HELLO]]}},
        {"inputs": [{"messages": HELLO}]},
    ):
        frame = client.post("/invocations", json={**body, "params": SHORT})
        assert frame.status_code == 200, frame.text
        assert frame.json() == {"predictions": [text]}


def test_a_bad_request_is_a_400_with_the_reason(client: Any) -> None:
    reply = client.post("/invocations", json={"messages": [{"role": "tool", "content": "x"}]})
    assert reply.status_code == 400 and "Unknown roles tool" in reply.text
    reply = client.post("/invocations", json={"messages": "Hello"})
    assert reply.status_code == 400


@pytest.mark.slow
def test_a_served_version_answers_offline(two_versions: Versions, tmp_path: Path) -> None:
    uri, port = two_versions.tracker().uri, free_port()
    command = [*(sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@champion")]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "--workers", "1"]
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = {**outside, **service_environment(two_versions.home), "HF_HUB_OFFLINE": "1"}
    environment.update(MLFLOW_TRACKING_URI=uri, MLFLOW_REGISTRY_URI=uri)
    # MLflow starts `uvicorn` by its name: the environment must be an activated one.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: server.poll() is not None or _answers(port), 200)
        assert server.poll() is None, log.read_text()
        body = json.dumps({"model": "tiny", "messages": HELLO, "max_tokens": 6}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            message = json.load(reply)["choices"][0]["message"]
        assert message["role"] == "assistant" and isinstance(message["content"], str)
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
            return True
    except OSError:
        return False
