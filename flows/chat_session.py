"""The chat in the terminal: questions in, streamed answers out, commands that start with `/`."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orpo_pipeline.inference.answers import Conversation, stream_answer
from orpo_pipeline.pages.rendering import show_controls
from schemas.errors import PipelineError
from schemas.serving import Sampling
from tasks.chat import ChatModels, require_different

HELP = """/reset          forget the conversation
/system TEXT    begin anew with a system message; without TEXT: with none
/model NAMES    who answers: base, an alias or a version number; several with commas
/quit           leave (or Ctrl-D); Ctrl-C ends an answer"""


@dataclass
class ChatSession:
    """One conversation with each model that answers, all hearing the same questions."""

    models: ChatModels
    sampling: Sampling
    console: Console
    names: list[str]
    system: str | None = None
    who: list[str] = field(default_factory=list)
    conversations: dict[str, Conversation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.choose(self.names)

    def choose(self, names: list[str]) -> None:
        """Load these models and begin anew with them. What fails changes nothing."""
        who = self.models.load(names)
        require_different(names, who)
        self.names, self.who = names, who
        self.reset()
        self.say(f"{' and '.join(self.labels())} answer{'s' if len(who) == 1 else ''}.")

    def labels(self) -> list[str]:
        """`champion (version 3)`."""
        return [
            name if who in (name, "base") else f"{name} (version {who})"
            for name, who in zip(self.names, self.who, strict=True)
        ]

    def reset(self) -> None:
        self.conversations = {who: Conversation(self.system) for who in self.who}

    def run(self, read: Callable[[], str | None]) -> None:
        """Until `read` has no more lines, or /quit."""
        commands = {
            "/reset": lambda _: self._command_reset(),
            "/system": self._command_system,
            "/model": lambda text: self.choose(parse_names(text)),
            "/help": lambda _: self.console.print(HELP, markup=False, highlight=False),
        }
        while (line := read()) is not None:
            word, _, rest = line.strip().partition(" ")
            if word == "/quit":
                return
            try:
                if word in commands:
                    commands[word](rest.strip())
                elif word.startswith("/"):
                    self.say(f"There is no command {word}. /help lists them.")
                elif word:
                    self.ask(line.strip())
            except PipelineError as error:
                self.say(str(error))

    def ask(self, question: str) -> None:
        """Let every model answer; several appear side by side."""
        if len(self.who) > 1:
            self._ask_side_by_side(question)
            return
        self._answer(0, question, self._write)
        self._write("\n")

    def _ask_side_by_side(self, question: str) -> None:
        answers = [""] * len(self.who)
        # While answers grow only what fits the screen is shown; the whole table comes at the end.
        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            for index in range(len(self.who)):

                def grow(text: str, index: int = index) -> None:
                    answers[index] += text
                    if self.console.is_terminal:
                        live.update(self._table(answers), refresh=True)

                self._answer(index, question, grow)
        self.console.print(self._table(answers))

    def _answer(self, index: int, question: str, on_text: Callable[[str], None]) -> None:
        who = self.who[index]
        conversation = self.conversations[who]
        # Each turn has a seed of its own, the same for every model that is compared.
        seed = self.sampling.seed + len(conversation.turns)
        with self.models.speaking_as(who):
            answer = stream_answer(
                self.models.voice(who),
                conversation.messages(question),
                self.sampling.model_copy(update={"seed": seed}),
                on_text,
            )
        conversation.add(question, answer)

    def _table(self, answers: list[str]) -> Table:
        table = Table(expand=True)
        for label in self.labels():
            table.add_column(escape(show_controls(label)), ratio=1, overflow="fold")
        table.add_row(*(escape(show_controls(answer)) for answer in answers))
        return table

    def _command_reset(self) -> None:
        self.reset()
        self.say("The conversation begins anew.")

    def _command_system(self, text: str) -> None:
        self.system = text or None
        self._command_reset()

    def say(self, text: str) -> None:
        """A line of ours, told apart from answers by its style."""
        shown = escape(show_controls(text))
        self.console.print(shown, style="dim", soft_wrap=True, highlight=False)

    def _write(self, text: str) -> None:
        # Plain, not through rich, which would hold back and fold a line that is not finished.
        self.console.file.write(str(show_controls(text)))
        self.console.file.flush()


def parse_names(text: str) -> list[str]:
    """`base, champion` as a list."""
    return [name.strip() for name in text.split(",") if name.strip()] or ["champion"]


def read_line() -> str | None:
    """The next line of the person or the pipe; None at its end (Ctrl-D)."""
    if not sys.stdin.isatty():
        return sys.stdin.readline() or None
    with suppress(ImportError):  # line editing and history where Python has them
        import readline  # noqa: F401
    while True:
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:  # at the prompt: a line thought better of
            print()
