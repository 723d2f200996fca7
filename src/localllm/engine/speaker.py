"""What a request says next: what is sampled, what an earlier run of it said, and what there is no choice about.

Tokens that a grammar forces, and those that close a thought which has become too long, are not sampled. They follow
the token before them at once, and all of them are computed in one decode (see `Sequence.run`). The run depends on the
request's own tokens alone, so that a replay and a deterministic request read the same tokens in the same portions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import frozen

from localllm.engine.model import TokenContext, TokenModel
from localllm.engine.request import Request
from localllm.errors import BackendError, LocalLLMError
from localllm.types import FinishReason, TokenLogprob


class Finish(Protocol):
    """Ends a request."""

    def __call__(self, request: Request, finish: FinishReason, error: LocalLLMError | None = None) -> None:
        """End it, with this reason."""


@frozen
class Choice:
    """What was chosen from the logits after a request's last token.

    Args:
        token: The token; None if there was none to choose, as the reply begins with forced ones.
        repeated: Whether it was taken from an earlier run of the request.
        logprob: Its log-probability, if that is wanted.
    """

    token: int | None = None
    repeated: bool = False
    logprob: TokenLogprob | None = None


class Speaker:
    """Lets requests speak. Used by the engine's thread only. What fails with a request ends that request.

    Args:
        model: The vocabulary, and maker of samplers.
        now: The clock, in seconds.
        finish: Ends a request.
    """

    def __init__(self, model: TokenModel, now: Callable[[], float], finish: Finish) -> None:
        self._model = model
        self._now = now
        self._finish = finish

    def prepare(self, request: Request) -> bool:
        """Find out what the request's grammar allows; False if that ended it."""
        constraint = request.constraint
        if constraint is None or constraint.stopped:
            return True
        return self._guarded(request, "the grammar failed", constraint.prepare)

    def choose(self, context: TokenContext, request: Request, output: int) -> Choice | None:
        """Choose what follows from the logits at `output`; None if that ended the request."""
        choices: list[Choice] = []
        self._guarded(request, "sampling failed", lambda: choices.append(self._choose(context, request, output)))
        return choices[0] if choices else None

    def say(self, request: Request, choice: Choice) -> None:
        """Take what was chosen, and what is forced after it."""
        self._guarded(request, "the reply could not be read", lambda: self._say(request, choice))

    def _guarded(self, request: Request, failure: str, work: Callable[[], None]) -> bool:
        """Do a request's work; whatever it raises is its own end, and nobody else's."""
        try:
            work()
        except LocalLLMError as exc:
            self._finish(request, "error", exc)
        except Exception as exc:  # noqa: BLE001  # samplers, grammars and folds are others' code
            error = BackendError(f"{failure}: {exc}")
            error.__cause__ = exc
            self._finish(request, "error", error)
        else:
            return True
        return False

    def _choose(self, context: TokenContext, request: Request, output: int) -> Choice:
        if request.sampler is None:
            request.sampler = self._model.make_sampler(request.options, request.sequence.prompt)
        if not request.begun and (self._is_whole(request) or self._forced(request)):
            return Choice()
        if request.options.top_logprobs is None or request.given:
            token = context.sample(output, request.sampler, request.constraint)
            repeated = bool(request.given)
            return Choice(self._repeat(request, token) if repeated else token, repeated)
        chances = context.distribution(output)  # before the sampling, which may change the logits
        token = context.sample(output, request.sampler, request.constraint)
        top = [(other, self._text(other), logprob) for other, logprob in chances.top(request.options.top_logprobs)]
        return Choice(token, logprob=TokenLogprob(token, self._text(token), chances.of(token), tuple(top)))

    def _repeat(self, request: Request, sampled: int) -> int:
        """Return the next token of an earlier run; it is sampled, too, so that random numbers go on as they did then.

        Where it is another (the batch was another one), the sampler is made anew, to remember what was really said.
        """
        token = request.given.popleft()
        if token != sampled and request.sampler is not None:
            request.sampler.close()
            request.sampler = self._model.make_sampler(request.options, [*request.sequence.tokens, token])
        return token

    def _say(self, request: Request, choice: Choice) -> None:
        sequence = request.sequence
        request.begun = True
        request.failures = 0
        start = len(sequence.tokens)
        if choice.token is not None:
            if not self._model.is_end(choice.token) and request.constraint is not None:
                request.constraint.accept((choice.token,))
            if self._take(request, choice.token, repeated=choice.repeated, logprob=choice.logprob):
                return
        while forced := self._forced(request):
            for token in forced:
                if self._go_on(request, token):
                    return
        if self._is_whole(request):
            self._finish(request, "stop")
            return
        sequence.end_run(start)

    def _go_on(self, request: Request, token: int) -> bool:
        """Take a forced token; whether the reply ended with it."""
        if request.constraint is not None and not self._model.is_end(token):
            request.constraint.accept((token,))
        repeated = bool(request.given)
        if repeated:
            request.given.popleft()
        if request.sampler is not None:
            request.sampler.accept(token)
        return self._take(request, token, repeated=repeated)

    def _forced(self, request: Request) -> list[int]:
        """Return what must follow now; where an earlier run said something else, what it said stays said."""
        forced = self._closing(request)
        constraint = request.constraint
        if not forced and constraint is not None and not constraint.stopped and request.options.top_logprobs is None:
            forced = list(constraint.forced())
            if request.options.max_thought_tokens is not None:
                del forced[1:]  # after each of them the thought may be too long
        for place, (token, said) in enumerate(zip(forced, request.given, strict=False)):
            if token != said:
                return forced[:place]
        return forced

    def _closing(self, request: Request) -> list[int]:
        """Return the tokens that close a thought which has had all the tokens that it may have."""
        most, output = request.options.max_thought_tokens, request.output
        if most is None or not output.thinking or output.thought_tokens < most or output.within_character:
            return []
        if self._is_whole(request):
            return []  # the reply ends here, thought or not
        tokens = list(self._model.encode_markup(output.close_thought))
        if request.constraint is not None and not request.constraint.allows(tokens):
            raise BackendError(
                f"the thought has {output.thought_tokens} tokens, max_thought_tokens={most} closes it, and the grammar "
                f"does not allow its end {output.close_thought!r} here"
            )
        return tokens

    def _is_whole(self, request: Request) -> bool:
        return request.constraint is not None and request.constraint.stopped

    def _take(self, request: Request, token: int, *, repeated: bool, logprob: TokenLogprob | None = None) -> bool:
        """Add a token to the reply, or end it there; whether it ended."""
        sequence, output = request.sequence, request.output
        marker = token in request.markers
        if self._model.is_end(token):
            if marker:
                output.marker(self._model.spell(token))
            self._finish(request, "stop")
            return True
        sequence.append(token)
        piece = self._model.spell(token) if marker else self._model.piece(token)
        output.token(token, piece, self._now(), repeated=repeated, logprob=logprob)
        if output.stopped:
            self._finish(request, "stop")
        elif sequence.generated >= sequence.max_new:
            self._finish(request, "stop" if self._is_whole(request) else "length")
        else:
            return False
        return True

    def _text(self, token: int) -> str:
        return self._model.spell(token).decode("utf-8", "replace")
