"""Finds the texts of special tokens in a rendered prompt, and tells the template's own from content's."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from localllm.chat.traced import OWN


@frozen
class Occurrence:
    """A place where a special token's text stands.

    Args:
        start: Its first character.
        stop: The character after its last one.
        token: The token.
    """

    start: int
    stop: int
    token: int


class SpecialTexts:
    """The texts of a vocabulary's special tokens, made ready for searching.

    Args:
        tokens: Each text and its token. A text of one character is left out: there is no other way to write it.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = {text: token for text, token in tokens.items() if len(text) > 1}
        lengths: dict[str, set[int]] = defaultdict(set)
        seconds: dict[str, set[str]] = defaultdict(set)
        for text in self._tokens:
            lengths[text[:2]].add(len(text))
            seconds[text[0]].add(text[1])
        self._lengths = {pair: sorted(found, reverse=True) for pair, found in lengths.items()}
        # Thousands of texts have a few beginnings: two characters leave next to no place to look at in vain.
        starts = (
            f"{re.escape(first)}(?=[{re.escape(''.join(sorted(found)))}])" for first, found in sorted(seconds.items())
        )
        self._start = re.compile("|".join(starts)) if self._tokens else None

    def at_each_place(self, text: str) -> Iterator[list[Occurrence]]:
        """Yield, for each place where texts begin, their occurrences, the longest first."""
        if self._start is None:
            return
        for match in self._start.finditer(text):
            start = match.start()
            found = []
            for length in self._lengths[text[start : start + 2]]:
                token = self._tokens.get(text[start : start + length])
                if token is not None:
                    found.append(Occurrence(start, start + length, token))
            if found:
                yield found

    def own(self, text: str, origins: str | None) -> list[Occurrence]:
        """Return the control tokens that the template wrote, in order.

        Args:
            text: The text, as a plain str.
            origins: The origin of each character; None if all of it is the template's own.

        Returns:
            What llama.cpp would take among the occurrences that are the template's own throughout: the longest wins
            where two overlap.
        """
        found: list[Occurrence] = []
        for places in self.at_each_place(text):
            for place in places:
                if origins is None or origins.count(OWN, place.start, place.stop) == place.stop - place.start:
                    found.append(place)
                    break
        return _longest(text, found)


def _longest(text: str, places: Sequence[Occurrence]) -> list[Occurrence]:
    """Return those of `places` (in order) that remain when the longest, in bytes, takes its place first."""
    if all(one.stop <= other.start for one, other in itertools.pairwise(places)):
        return list(places)
    taken = bytearray(len(text))
    kept = []
    for place in sorted(places, key=lambda place: (-len(text[place.start : place.stop].encode()), place.start)):
        if not any(taken[place.start : place.stop]):
            taken[place.start : place.stop] = b"\1" * (place.stop - place.start)
            kept.append(place)
    return sorted(kept, key=lambda place: place.start)
