"""A small OpenAI-compatible server on 127.0.0.1 whose judge behaves as a test says."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 100, "completion_tokens": 1}


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def shown(self) -> tuple[str, str, str]:
        """Conversation, answer A and answer B, found by the marks that the system message names."""
        system, user = (message["content"] for message in self.body["messages"])
        mark = re.search(r"where MARK is (\w+)\.", system)[1]  # type: ignore[index]
        return tuple(
            user.split(f"<{name} {mark}>\n")[1].split(f"\n</{name} {mark}>")[0]
            for name in ("conversation", "answer_A", "answer_B")
        )  # type: ignore[return-value]


@dataclass
class Given:
    """One response. `body` None: nothing is ever sent."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def says(text: str | None, **message: Any) -> Given:
    """A chat completion."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return Given({"choices": [choice], "usage": USAGE})


def fair(asked: Asked) -> Given:
    """Prefers the answer with more exclamation marks."""
    _, first, second = asked.shown
    better = first.count("!") - second.count("!")
    return says("A" if better > 0 else "B" if better < 0 else "TIE")


class JudgeServer:
    """What was asked, and how the judge behaves; `behave` may be changed at any time."""

    def __init__(self, behave: Callable[[Asked], Given]) -> None:
        self.behave = behave
        self.asked: list[Asked] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                asked = Asked(self.path, dict(self.headers), body)
                with outer.lock:
                    outer.asked.append(asked)
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                given = outer.behave(asked)
                with outer.lock:
                    outer.under_way -= 1
                if given.body is None:
                    outer.closing.wait(30)
                    self.close_connection = True
                    return
                text = given.body if isinstance(given.body, str) else json.dumps(given.body)
                self.send_response(given.status)
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                return

        return Handler


@contextmanager
def judge_server(behave: Callable[[Asked], Given] = fair) -> Iterator[JudgeServer]:
    """A running server; it has ended when the block does."""
    judge = JudgeServer(behave)
    judge.server.daemon_threads = True
    thread = threading.Thread(target=judge.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield judge
    finally:
        judge.closing.set()
        judge.server.shutdown()
        thread.join()
        judge.server.server_close()
