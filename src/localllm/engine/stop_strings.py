"""Finding the texts that end a reply while it is made, without ever showing a part of one.

An Aho-Corasick automaton over the stops, fed as the text comes. Its state is the longest end of the text so far that
a stop begins with, so what must be held back is exactly the state's own text. It is a prefix of a stop and needs no
buffer; each character is read once and handed out once, whatever the stops and however the text is cut.
"""

from __future__ import annotations

from collections import deque


class StopStrings:
    """Lets text through up to the first stop; pure, one a reply.

    The stop that begins first wins, as in `text[:text.find(stop)]`; of those that begin at one place the shortest,
    which is complete first. Where text that may become an earlier stop is still open, a complete one waits for it.

    Args:
        stops: The texts to stop at, none of them empty; with none, all text passes at once.
    """

    __slots__ = ("_depth", "_ends", "_fail", "_firsts", "_found", "_next", "_read", "_state", "_stop_of", "met")

    met: str | None
    """The stop that was met; None until then. `flush` may still set it."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.met = None
        self._firsts = frozenset(stop[0] for stop in stops)
        self._state = 0
        self._read = 0  # characters read since the reply began
        self._found: tuple[int, str] | None = None  # where the best complete stop begins, while an earlier one is open
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._ends = [0]  # length of the longest stop that ends in this state; 0 for none
        self._fail = [0]  # the state of the longest proper end of this one's text
        self._stop_of = [""]  # a stop that begins with this state's text
        for stop in stops:
            self._add(stop)
        self._link()

    def push(self, text: str) -> str:
        """Return the text that may be delivered now that `text` was made.

        Once `met` is set, and after it, nothing beyond the beginning of that stop is ever returned.
        """
        if not self._firsts:
            return text
        if self.met is not None:
            return ""
        if not self._state and self._firsts.isdisjoint(text):
            self._read += len(text)
            return text
        return self._scan(text)

    def flush(self) -> str:
        """Return the text held back, now that no more will come; it was no stop, unless this sets `met`."""
        held = self._stop_of[self._state][: self._depth[self._state]]
        if self._found is not None:
            held = self._meet(self._found, held, self._read - len(held))
        self._state = 0
        return held

    def _scan(self, text: str) -> str:
        """`push` for text that may hold a stop, or go on with one."""
        following, fail, depth, ends = self._next, self._fail, self._depth, self._ends
        begin, state = self._read, self._state  # `begin` is where `text` starts, counted from the reply's start
        held, held_length = self._stop_of[state], depth[state]  # held back so far: held[:held_length]
        for position, char in enumerate(text, begin + 1):
            while state and char not in following[state]:
                state = fail[state]
            state = following[state].get(char, 0)
            if ends[state]:
                start = position - ends[state]
                if self._found is None or start < self._found[0]:
                    self._found = (start, self._ending(state))
            if self._found is not None and position - depth[state] >= self._found[0]:
                return self._meet(self._found, held[:held_length] + text, begin - held_length)
        self._state = state
        self._read = begin + len(text)
        ready = held_length + len(text) - depth[state]
        # Only what is ready is copied: a long held text copied at every push would cost its square.
        return held[:ready] if ready <= held_length else held[:held_length] + text[: ready - held_length]

    def _meet(self, found: tuple[int, str], text: str, begin: int) -> str:
        """Set `met` to the stop `found` and return the part of `text`, which starts at `begin`, before it."""
        start, self.met = found
        self._found, self._state = None, 0
        return text[: start - begin]

    def _ending(self, state: int) -> str:
        """Return the longest stop that ends in `state`."""
        while self._depth[state] != self._ends[state]:
            state = self._fail[state]
        return self._stop_of[state]

    def _add(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._ends.append(0)
                self._fail.append(0)
                self._stop_of.append(stop)
            state = self._next[state][char]
        self._ends[state] = len(stop)
        self._stop_of[state] = stop

    def _link(self) -> None:
        """Set `_fail` and `_ends` breadth first, so that shorter texts are done before longer ones need them."""
        todo = deque(self._next[0].values())
        while todo:
            state = todo.popleft()
            self._ends[state] = self._ends[state] or self._ends[self._fail[state]]
            for char, child in self._next[state].items():
                back = self._fail[state]
                while back and char not in self._next[back]:
                    back = self._fail[back]
                self._fail[child] = self._next[back].get(char, 0)
                todo.append(child)
