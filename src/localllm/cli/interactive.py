"""`localllm chat`: a conversation at the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import suppress

from attrs import define, frozen

from localllm.cli import OK
from localllm.cli.figures import model_lines, reply_line
from localllm.cli.loading import ChatSettings, loaded
from localllm.cli.streaming import show
from localllm.cli.terminal import Terminal
from localllm.errors import ContextOverflowError, LocalLLMError
from localllm.model import Model
from localllm.session import ChatSession
from localllm.stream import ChatStream
from localllm.types import Reply

PROMPT = ">>> "
CONTINUED = "... "
FENCE = '"""'
_LEAVE = "Ctrl-D or /quit leaves, /help lists the commands"


def converse(settings: ChatSettings, terminal: Terminal, read: Callable[[str], str] = input) -> int:
    """Talk with the model until the user leaves.

    Args:
        settings: Model and options.
        terminal: Where replies and notes go.
        read: Shows a prompt and returns a line; raises EOFError at the end and KeyboardInterrupt on Ctrl-C.

    Returns:
        The exit code.

    Raises:
        LocalLLMError: The model cannot be loaded.
    """
    with suppress(ImportError):  # not on every system; without it, lines cannot be edited or recalled
        import readline  # noqa: F401  # importing it is what makes `input` use it
    with loaded(settings, terminal) as model:
        terminal.note(f"{model.info.name}, context of {model.info.n_ctx} tokens. {_LEAVE}.")
        return Conversation(model, settings, terminal, read).run()


@frozen
class Command:
    """Something that a line beginning with a slash does.

    Args:
        names: What it is called; the first is the one that /help shows.
        help: What it does, in a few words.
        run: Does it with the rest of the line; returns False to leave.
        takes: Name of the rest of the line in /help; empty if it takes none.
    """

    names: tuple[str, ...]
    help: str
    run: Callable[[Conversation, str], bool]
    takes: str = ""


@define(eq=False)
class Conversation:
    """The state of one interactive chat: a session, and what the commands need beside it."""

    _model: Model
    _settings: ChatSettings
    _terminal: Terminal
    _read: Callable[[str], str]
    _system: str | None = None
    _reply: Reply | None = None
    _session: ChatSession | None = None

    def __attrs_post_init__(self) -> None:
        self._system = self._settings.system

    def run(self) -> int:
        """Read and answer lines until the user leaves; return the exit code."""
        while True:
            try:
                if not self.handle(self._line()):
                    return OK
            except EOFError:
                self._terminal.line()
                return OK
            except KeyboardInterrupt:
                self._terminal.line()
                self._terminal.note(_LEAVE)
            except ContextOverflowError as exc:
                self._terminal.note(f"{exc} (/undo or /reset make room)", kind="error")
            except LocalLLMError as exc:
                self._terminal.note(str(exc), kind="error")

    def handle(self, line: str) -> bool:
        """Do what `line` says: a command, or a message to the model. Return False to leave."""
        text = line.strip()
        if not text:
            return True
        if text.startswith("/") and not text.startswith("//"):
            name, _, rest = text.partition(" ")
            return self._command(name.lower(), rest.strip())
        prompt = text[1:] if text.startswith("//") else text
        self._show(lambda: self._chat().stream(prompt))
        return True

    def _line(self) -> str:
        """Read a line, or several between lines of three quotes."""
        line = self._read(PROMPT)
        if not line.lstrip().startswith(FENCE):
            return line
        lines = [line.lstrip()[len(FENCE) :]]
        while not lines[-1].rstrip().endswith(FENCE):
            lines.append(self._read(CONTINUED))
        lines[-1] = lines[-1].rstrip()[: -len(FENCE)]
        return "\n".join(lines)

    def _chat(self) -> ChatSession:
        if self._session is None:
            self._session = ChatSession(self._model, system=self._system, **self._settings.options)
        return self._session

    def _show(self, start: Callable[[], ChatStream]) -> None:
        self._reply = reply = show(start, self._terminal)
        if reply.finish_reason == "cancelled":
            kept = "what came is kept (/undo takes it back, /regenerate tries again)"
            self._terminal.note(f"stopped; {kept if reply.text else 'nothing had come'}")
        elif reply.finish_reason == "length":
            self._terminal.note("cut off: --max-tokens or the context window is used up")

    def _command(self, name: str, rest: str) -> bool:
        for command in COMMANDS:
            if name in command.names:
                if rest and not command.takes:
                    self._terminal.note(f"{name} takes nothing after it")
                    return True
                return command.run(self, rest)
        names = [name for command in COMMANDS for name in command.names]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "/help lists the commands;"
        self._terminal.note(f"no command {name}: {hint} A message that begins with a slash is written with two.")
        return True

    def help(self, rest: str) -> bool:
        """/help: list the commands."""
        for command in COMMANDS:
            title = f"{command.names[0]} {command.takes}".strip()
            also = f" (also {', '.join(command.names[1:])})" if command.names[1:] else ""
            self._terminal.line(f"  {title:<16} {command.help}{also}")
        self._terminal.line(f"  {FENCE:<16} begins and ends a message of several lines")
        self._terminal.line(f"  {'Ctrl-C':<16} stops the reply; at the prompt, clears the line")
        self._terminal.line(f"  {'Ctrl-D':<16} leaves")
        return True

    def reset(self, rest: str) -> bool:
        """/reset: forget the conversation."""
        if self._session is not None:
            self._session.reset()
        self._reply = None
        self._terminal.note("the conversation starts anew")
        return True

    def undo(self, rest: str) -> bool:
        """/undo: take the last turn back."""
        taken = self._chat().undo()
        if not taken:
            self._terminal.note("nothing to take back")
            return True
        self._terminal.note(f"taken back: {taken[0].content}")
        return True

    def system(self, rest: str) -> bool:
        """/system: show or change the system message; the conversation so far is kept."""
        if not rest:
            self._terminal.line(self._system or "no system message; /system TEXT sets one")
            return True
        self._system = None if rest == "off" else rest
        turns = [message for message in self._chat().history if message.role != "system"]
        self._session = ChatSession(self._model, system=self._system, history=turns, **self._settings.options)
        self._terminal.note("no system message from now on" if self._system is None else "system message set")
        return True

    def regenerate(self, rest: str) -> bool:
        """/regenerate: answer the last message once more."""
        self._show(lambda: self._chat().stream_regenerate())
        return True

    def stats(self, rest: str) -> bool:
        """/stats: show figures."""
        lines = [f"last reply: {reply_line(self._reply)}"] if self._reply is not None else []
        for line in [*lines, *model_lines(self._model.stats())]:
            self._terminal.line(line)
        return True

    def quit(self, rest: str) -> bool:
        """/quit: leave."""
        return False


COMMANDS = (
    Command(("/help", "/?"), "list the commands", Conversation.help),
    Command(("/reset", "/clear"), "forget the conversation", Conversation.reset),
    Command(("/undo",), "take the last turn back", Conversation.undo),
    Command(("/regenerate", "/regen", "/retry"), "answer the last message once more", Conversation.regenerate),
    Command(("/system",), "show or change the system message; /system off removes it", Conversation.system, "[TEXT]"),
    Command(("/stats",), "show figures", Conversation.stats),
    Command(("/quit", "/exit", "/bye"), "leave", Conversation.quit),
)
