"""What a turn cost: the figures of its requests to the model, added up."""

from __future__ import annotations

from attrs import define, evolve, field

from localllm.types import GenerationEnded, Timings, Usage


@define(eq=False)
class Figures:
    """Adds up the figures of a turn's requests. With one request they are that one's own, as the backend gave them."""

    usage: Usage = field(factory=Usage, init=False)
    _timings: Timings | None = field(default=None, init=False)
    _decoded: int = field(default=0, init=False)

    @property
    def timings(self) -> Timings:
        """The seconds: until the first token as the caller saw it, then the decoding of all requests together."""
        return self._timings or Timings()

    def add(self, ended: GenerationEnded, *, waited_s: float, silent: bool) -> None:
        """Count a request.

        Args:
            ended: Its end.
            waited_s: Seconds from the turn's beginning to the request's; 0 for the first one.
            silent: Whether its text was no part of the reply: then only its tokens count.
        """
        added = ended.usage
        self.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens if silent else added.prompt_tokens,
            cached_tokens=self.usage.cached_tokens if silent else added.cached_tokens,
            completion_tokens=self.usage.completion_tokens + added.completion_tokens,
            thought_tokens=self.usage.thought_tokens + added.thought_tokens,
        )
        if silent:
            return
        counted = max(0, added.completion_tokens - 1)
        if self._timings is None or not self._timings.first_token_s:
            first_s = ended.timings.first_token_s
            self._timings = evolve(ended.timings, first_token_s=first_s + waited_s if first_s else 0.0)
        else:
            decode_s = self._timings.decode_s + ended.timings.decode_s
            rate = (self._decoded + counted) / decode_s if decode_s > 0 else 0.0
            self._timings = evolve(self._timings, decode_s=decode_s, tokens_per_s=rate)
        self._decoded += counted
