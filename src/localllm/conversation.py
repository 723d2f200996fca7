"""What both kinds of session are inside: a history, default options, tools, and at most one turn at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Literal, TypeAlias, assert_never, cast

from attrs import evolve, field, frozen
from typing_extensions import TypeForm

from localllm._json import check_text
from localllm.ahead import Ahead, Preload, keep_nothing, log_preload
from localllm.backends.base import GenerateHandle, GenerateRequest
from localllm.chat.history import History
from localllm.chat.overflow import OVERFLOWS, Overflow
from localllm.course import ChatCourse, Wish
from localllm.draft import Draft
from localllm.errors import InvalidOptionError, InvalidPromptError, SessionBusyError
from localllm.model import Model
from localllm.options import RequestOptions
from localllm.output.forms import grammar_of, output_form
from localllm.pump import PENDING, Pending
from localllm.saved.session import SavedSession
from localllm.shortening import ShorteningRun
from localllm.stages import Ask, RunCalls, Shorten, Stage, StageSink
from localllm.tools.run import ToolRun
from localllm.tools.tool import Toolbox
from localllm.turn import Turn
from localllm.types import Message, Prompt, Reply

Runner: TypeAlias = Callable[[RunCalls, float | None, StageSink], ToolRun]
"""Begins to run calls, given also the seconds that each may take, and where its events go."""

_SEEDS = 2**32 - 1
"""One more than the largest seed."""

_OF_PROMPT = ("thoughts", "tool_choice")
"""Options that change what a model reads."""


@frozen
class Demand:
    """What a call of a session asks for, beside a prompt, as the caller gave it.

    Args:
        options: Over the session's own.
        schema: What the reply is to be; None is text.
        prefix: What the reply begins with.
    """

    options: Mapping[str, object] = field(factory=dict)
    schema: object = None
    prefix: str = ""


class Conversation:
    """The state of a session. All methods return at once; what waits is the turn's consumer.

    Args:
        model: Answers.
        system: The system message, if any.
        history: The messages so far.
        overflow: What to do when the context window is full.
        box: What the model may call.
        runner: Runs calls.
        options: Options of every reply, unless a call has its own.

    Raises:
        InvalidOptionError: An option is unknown or out of range.
        InvalidPromptError: A history that is no conversation.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None,
        history: Iterable[Message],
        overflow: Overflow,
        box: Toolbox,
        runner: Runner,
        options: Mapping[str, object],
    ) -> None:
        if overflow not in OVERFLOWS and not callable(overflow):
            raise InvalidOptionError(
                f"overflow must be one of {', '.join(map(repr, OVERFLOWS))} or a function; got {overflow!r:.80}"
            )
        checked = RequestOptions.of(options)
        self.model = model
        self._overflow = overflow
        self._box = box
        self._runner = runner
        # As validated, so that a list which the caller changes later changes nothing here.
        self._options: dict[str, object] = {name: getattr(checked, name) for name in options}
        self._history = History.of(system, history)
        self._turns: tuple[Turn, ...] = ()  # the one that is running, or several alternatives
        self._offers: list[tuple[ChatCourse, tuple[Message, ...]]] = []
        self._ahead = Ahead()
        self._lock = RLock()  # reentrant: a signal handler may cancel, and so settle a turn, in the middle of anything

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages of all ended turns, the system message first."""
        self._settle_dropped()
        return self._history.messages

    def ask(self, turn: Turn, prompt: Prompt, demand: Demand) -> None:
        """Start `turn` as the answer to `prompt`. The caller cancels the turn if this raises, whatever it is.

        Raises:
            InvalidPromptError: The prompt cannot be used here.
            InvalidOptionError: An option is unknown or out of range, or a schema that cannot be enforced.
            SessionBusyError: Another turn is running.
            ClosedError: The model is closed.
        """
        self._start((turn,), lambda history: history.asked(prompt), self._wish(demand))

    def ask_again(self, turn: Turn, demand: Demand) -> None:
        """Start `turn` as another answer in place of the last one. Raises like `ask`."""
        self._start((turn,), History.unanswered, self._wish(demand))

    def go_on(self, turn: Turn, demand: Demand) -> None:
        """Start `turn` as the continuation of the last reply, which was cut off. Raises like `ask`."""
        with self._idle():
            _, cut = self._history.cut_off()
        wish = evolve(self._wish(demand), prefix=cut.content)
        draft = Draft(cut.content, cut.thought if cut.content else None)
        self._start((turn,), lambda history: history.cut_off()[0], wish, draft)

    def offer(self, turns: tuple[Turn, ...], prompt: Prompt, demand: Demand) -> None:
        """Start several turns as alternative answers, none of which is kept until one is chosen. Raises like `ask`."""
        wish = self._wish(demand)
        wish = evolve(wish, options=evolve(wish.options, run_tools=False))
        self._start(turns, lambda history: history.asked(prompt), wish)

    def choose(self, reply: Reply[object]) -> None:
        """Keep an alternative, with its prompt.

        Raises:
            InvalidPromptError: It is none of the last alternatives.
            SessionBusyError: A turn is running.
        """
        with self._idle():
            for course, made in self._offers:
                if made[-1] is reply.message:
                    self._offers = []
                    self._history = course.kept(made)
                    return
            raise InvalidPromptError(
                "this reply is none of the last alternatives, or the session has gone on since; ask for new ones"
            )

    def preload(self, draft: str) -> None:
        """Have the model read the history and `draft`, in place of what it was last told to read.

        Raises:
            InvalidPromptError: The draft cannot be used.
            SessionBusyError: A turn is running.
            ClosedError: The model is closed.
        """
        with self._idle():
            messages = self._history.drafted(draft)
            self._ahead.end()
            request = self._reading(messages)
            if request is not None:
                self._ahead.read(Preload(self.model.submit(request, log_preload), messages))

    def complete(self, turn: Turn, text: str, options: Mapping[str, object]) -> bool:
        """Start `turn` as a guess at how a user's unfinished `text` goes on, in place of the last guess.

        The turn keeps nothing. The caller cancels it if this raises.

        Args:
            turn: Has the guess for its text.
            text: What the user has typed.
            options: Of the guess; of the session's own only those that the prompt depends on count.

        Returns:
            False if there is nothing to go on from, so that the turn was not started.

        Raises:
            InvalidPromptError: The text cannot be used.
            InvalidOptionError: An option is out of range.
            SessionBusyError: Another turn is running.
            ClosedError: The model is closed.
        """
        of_prompt = {name: self._options[name] for name in _OF_PROMPT if name in self._options}
        checked = RequestOptions.of(of_prompt, options, {"run_tools": False})
        wish = Wish(options=evolve(checked, stop=(*checked.stop, "\n")), purpose="complete")
        message = Message.user(text)
        with self._idle():
            if not text.strip():
                self._ahead.end()
                return False
            asked = self._history.asked(message)
            self._ahead.guess(turn, asked.prompt)
        # A summary is a reply of its own: too much for a guess.
        overflow: Overflow = "drop_oldest" if self._overflow == "summarize" else self._overflow
        turn.start(partial(self._begin, None, overflow), self._course(asked, wish), keep_nothing, checked.timeout_s)
        return True

    def _reading(self, messages: tuple[Message, ...]) -> GenerateRequest | None:
        """Return the request to read messages and answer nothing; None if there are none."""
        if not messages:
            return None
        options, tools = RequestOptions.of(self._options), self._box.definitions
        return GenerateRequest(messages=messages, options=options, purpose="preload", tools=tools)

    def snapshot(self) -> tuple[SavedSession, GenerateRequest | None]:
        """Return what a file is to hold, and a request whose prompt has the state; None if there is nothing to read.

        Raises:
            SessionBusyError: A turn is running.
        """
        with self._idle():
            info = self.model.info
            saved = SavedSession(
                history=self._history,
                options=self._options,
                overflow="callable" if callable(self._overflow) else self._overflow,
                tools=tuple(definition.name for definition in self._box.definitions),
                model_hash=info.model_hash,
                model_name=info.name,
            )
            return saved, self._reading(self._history.prompt)

    def adopt(self, history: History) -> None:
        """Go on from this history."""
        self._history = history

    def fork(self) -> Conversation:
        """Return a conversation that goes on from here on its own; a running turn stays with this one."""
        self._settle_dropped()
        copy = Conversation(
            self.model,
            system=None,
            history=(),
            overflow=self._overflow,
            box=self._box,
            runner=self._runner,
            options=self._options,
        )
        copy._history = self._history
        return copy

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn and return its messages.

        Raises:
            SessionBusyError: A turn is running.
        """
        with self._idle():
            self._ahead.end()
            self._offers = []
            self._history, removed = self._history.undone()
            return removed

    def reset(self) -> None:
        """Forget all but the system message.

        Raises:
            SessionBusyError: A turn is running.
        """
        with self._idle():
            self._ahead.end()
            self._offers = []
            self._history = self._history.cleared()

    def _wish(self, demand: Demand) -> Wish:
        """Return what a call asks for, checked."""
        options = RequestOptions.of(self._options, demand.options)
        self._box.check_choice(options.tool_choice)
        form = None if demand.schema is None else output_form(cast("TypeForm[object]", demand.schema))
        return Wish(
            options=options,
            form=form,
            grammar=grammar_of(options, form),
            prefix=check_text(demand.prefix, "the prefix"),
        )

    def _start(
        self, turns: tuple[Turn, ...], change: Callable[[History], History], wish: Wish, draft: Draft | None = None
    ) -> None:
        with self._idle():
            asked = change(self._history)
            self._ahead.end(unless_read_for=asked.prompt)
            self._turns, self._offers = turns, []
        for index, turn in enumerate(turns):
            course = self._course(asked, _numbered(wish, index))
            keep = partial(self._keep if len(turns) == 1 else self._keep_offer, course)
            begin = partial(self._begin, wish.options.tool_timeout_s, self._overflow)
            turn.start(begin, course, keep, wish.options.timeout_s, draft or Draft(wish.prefix))

    def _course(self, asked: History, wish: Wish) -> ChatCourse:
        return ChatCourse(asked, wish, self._box, shortens=self._overflow != "error", n_ctx=self.model.info.n_ctx)

    def _begin(self, tool_timeout_s: float | None, overflow: Overflow, stage: Stage, sink: StageSink) -> GenerateHandle:
        """Carry out a stage of a turn."""
        match stage:
            case Ask():
                return self.model.submit(stage.request, sink)
            case RunCalls():
                return self._runner(stage, tool_timeout_s, sink)
            case Shorten():
                return ShorteningRun(stage, self.model, overflow, sink)
            case _:
                assert_never(stage)

    def _keep(self, course: ChatCourse, made: tuple[Message, ...] | None) -> None:
        """End the turn: with what it has made both the prompt and that are kept, without it neither."""
        with self._lock:
            self._turns = ()
            if made is not None:
                self._history = course.kept(made)

    def _keep_offer(self, course: ChatCourse, made: tuple[Message, ...] | None) -> None:
        with self._lock:
            if made is not None:
                self._offers.append((course, made))

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Hold the lock, if no turn is running."""
        self._settle_dropped()
        with self._lock:
            if not all(turn.settled for turn in self._turns):
                raise SessionBusyError(
                    "this session is in the middle of a reply: read its stream to the end, cancel it or drop it first "
                    "(leaving a `with` or a `for` does); to talk to the model twice at once use fork() or another "
                    "session"
                )
            yield

    def _settle_dropped(self) -> None:
        # Outside the lock: a turn's lock comes before the session's.
        for turn in self._turns:
            turn.settle_if_dropped()


def collected(turns: tuple[Turn, ...]) -> tuple[Reply[object], ...] | Literal[Pending.PENDING]:
    """Step all of `turns`, and return their replies once all have one. Raises the first failure."""
    replies = [turn.collect() for turn in turns]
    whole = tuple(reply for reply in replies if reply is not PENDING)
    return whole if len(whole) == len(turns) else PENDING


def check_count(n: int) -> int:
    """Return how many alternatives are asked for.

    Raises:
        InvalidOptionError: It is no number from 1 to 100.
    """
    given: object = n
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= 100:
        raise InvalidOptionError(f"n must be an integer from 1 to 100; got {given!r:.80}")
    return given


def _numbered(wish: Wish, index: int) -> Wish:
    """Return the wish of one of several alternatives: a given seed counts up, or all of them would be the same."""
    seed = wish.options.seed
    if seed is None or not index:
        return wish
    return evolve(wish, options=evolve(wish.options, seed=(seed + index) % _SEEDS))
