"""Turns a rendered prompt into tokens, so that only the template's own text makes control tokens.

What llama.cpp does with a text: it looks for the texts of special tokens, longest first, and encodes what is left
between them, piece by piece. Here the same is done on traced text. An occurrence of a special token's text counts
only if every character of it is the template's own; with that one difference the pieces are those of llama.cpp, and
so are their tokens. (The tests compare with llama.cpp's own result for every vocabulary it ships.) Pieces are also
what is remembered between turns: a long history is not encoded again for each new message.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, pairwise

from attrs import frozen

from localllm.chat.lru import Lru
from localllm.chat.specials import Occurrence, SpecialTexts
from localllm.chat.traced import OWN, TracedText, plain
from localllm.chat.vocabulary import Vocabulary

_SPACES = " \t\n\v\f\r"  # what llama.cpp strips beside some special tokens: isspace() of the C locale
_GUARD = "\ue000"  # for private use: no vocabulary merges it with its neighbors
_UNKNOWN = ("\ue000", "\u16de", "\U0001fae0")  # characters of which a vocabulary without bytes has some unknown
_CACHE_CHARS = 1_000_000
_ENTRY_CHARS = 64  # what an entry costs beyond its text, in characters; a guess


@frozen
class Splice:
    """A stretch of the prompt whose tokens are known already.

    Args:
        start: Its first character.
        stop: The character after its last one.
        tokens: Its tokens.
    """

    start: int
    stop: int
    tokens: tuple[int, ...]


class PromptTokenizer:
    """Encodes traced text. Safe from any thread.

    Args:
        vocabulary: The model's tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._texts = SpecialTexts(vocabulary.special_tokens)
        # SPM writes spaces as U+2581, so a control token's text may be met in either spelling
        spaced = {_spaced(text): token for text, token in vocabulary.special_tokens.items()}
        self._spaced = SpecialTexts(spaced) if any(" " in text for text in spaced) else None
        self._pieces: Lru[tuple[str, bool, bool], array[int]] = Lru(_CACHE_CHARS)
        self._strip: dict[int, tuple[bool, bool]] = {}
        self._made: dict[int, bool] = {}

    def encode(self, text: str, splices: Sequence[Splice] = ()) -> list[int]:
        """Return the tokens of a rendered prompt.

        Args:
            text: The prompt, a `TracedText` if there is content in it.
            splices: Stretches that have their tokens already, in order and apart. One whose control tokens are not
                those that the template wrote there is left out.
        """
        string = plain(text)
        origins = text.origins if isinstance(text, TracedText) else None
        stops = self._merge(self._texts.own(string, origins), splices)
        tokens: list[int] = []
        position = 0
        previous: Occurrence | Splice | None = None
        for stop in [*stops, None]:
            end = len(string) if stop is None else stop.start
            piece = string[position:end]
            if isinstance(previous, Occurrence) and self._strips(previous, string)[1]:
                piece = piece.lstrip(_SPACES)
            if isinstance(stop, Occurrence) and self._strips(stop, string)[0]:
                piece = piece.rstrip(_SPACES)
            if piece:
                has_content = origins is not None and origins.count(OWN, position, end) < end - position
                tokens += self._piece(piece, has_content, isinstance(previous, Splice))
            if stop is not None:
                position = stop.stop
                tokens += (stop.token,) if isinstance(stop, Occurrence) else stop.tokens
            previous = stop
        return tokens

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of `text` as content: never a control token."""
        return list(self._piece(plain(text), True, False)) if text else []

    def _merge(self, own: Sequence[Occurrence], splices: Sequence[Splice]) -> list[Occurrence | Splice]:
        """Return control tokens and splices in order; control tokens in a splice are among its own tokens."""
        if not splices:
            return list(own)
        starts = [place.start for place in own]
        merged: list[Occurrence | Splice] = []
        done = 0
        for splice in splices:
            first, last = bisect_left(starts, splice.start), bisect_left(starts, splice.stop)
            if (first and own[first - 1].stop > splice.start) or (last and own[last - 1].stop > splice.stop):
                continue
            if [place.token for place in own[first:last]] != [t for t in splice.tokens if t in self._ids]:
                continue
            merged += [*own[done:first], splice]
            done = last
        return [*merged, *own[done:]]

    @cached_property
    def _ids(self) -> frozenset[int]:
        """The special tokens."""
        return frozenset(self._vocabulary.special_tokens.values())

    @cached_property
    def _unwanted(self) -> frozenset[int]:
        """The special tokens that content must not give; the unknown token stands for what has no other."""
        return self._ids.difference(
            *(self._vocabulary.encode(character, parse_special=False) for character in _UNKNOWN)
        )

    def _piece(self, piece: str, has_content: bool, continued: bool) -> array[int]:
        """Return the tokens of what stands between two control tokens."""
        key = (piece, has_content, continued)
        known = self._pieces.get(key)
        if known is None:
            spelled = self._spell(piece, continued) if has_content else self._raw(piece, True, continued)
            known = array("i", spelled)  # a tenth of what a tuple of integers takes, and there are many
            self._pieces.put(key, known, len(piece) + _ENTRY_CHARS)
        return known

    def _raw(self, piece: str, parse_special: bool, continued: bool) -> list[int]:
        """Return the vocabulary's tokens of `piece`; `continued` if tokens stand before it that are not special."""
        if continued and self._guard:
            tokens = self._vocabulary.encode(_GUARD + piece, parse_special=parse_special)
            if tuple(tokens[: len(self._guard)]) == self._guard:
                return tokens[len(self._guard) :]
        return self._vocabulary.encode(piece, parse_special=parse_special)

    @cached_property
    def _guard(self) -> tuple[int, ...]:
        """The tokens of `_GUARD` if the vocabulary puts a space before a text, else nothing.

        SPM vocabularies do that at the beginning and after special tokens. Where a text is encoded in parts, the
        later parts must have none; they are encoded behind a guard, whose tokens are then taken off.
        """
        guard = self._vocabulary.encode(_GUARD, parse_special=False)
        guarded = self._vocabulary.encode(_GUARD + "a", parse_special=False)
        alone = self._vocabulary.encode("a", parse_special=False)
        prefixed = guarded[: len(guard)] == guard and guarded[len(guard) :] != alone
        return tuple(guard) if prefixed else ()

    def _spell(self, piece: str, continued: bool) -> list[int]:
        """Return tokens of `piece` among which no special one is, even if special tokens' texts stand in it.

        Most vocabularies leave the texts of control tokens alone when asked to. User-defined tokens are made
        regardless, and some texts merge to a special token from ordinary parts. Those are encoded in two halves,
        split before their last character.
        """
        places = self._places(piece)
        # Known ones are split before anything is encoded: llama.cpp's time is quadratic in their number.
        cuts = {place.stop - 1 for place in places if self._is_made(place, piece)}
        while True:
            bounds = [0, *sorted(cuts), len(piece)]
            parts = [piece[start:stop] for start, stop in pairwise(bounds)]
            tokens = [self._raw(part, False, continued or number > 0) for number, part in enumerate(parts)]
            made = self._unwanted.intersection(chain.from_iterable(tokens))
            again = {place.stop - 1 for place in places if place.token in made and _uncut(bounds, place)}
            if not again:
                break
            cuts |= again
        if made:
            tokens = [self._halve(part, continued or number > 0) for number, part in enumerate(parts)]
        return list(chain.from_iterable(tokens))

    def _places(self, piece: str) -> list[Occurrence]:
        """Return where special tokens' texts stand, overlapping ones too."""
        places = list(chain.from_iterable(self._texts.at_each_place(piece)))
        if self._spaced is not None:
            places += chain.from_iterable(self._spaced.at_each_place(_spaced(piece)))
        return places

    def _is_made(self, place: Occurrence, piece: str) -> bool:
        """Tell whether the vocabulary makes a special token of its text even where it is asked not to."""
        known = self._made.get(place.token)
        if known is None:
            known = place.token in self._vocabulary.encode(piece[place.start : place.stop], parse_special=False)
            self._made[place.token] = known
        return known

    def _halve(self, piece: str, continued: bool) -> list[int]:
        """Return tokens without special ones, where nothing in the text tells why they arise: split and try again."""
        tokens = self._raw(piece, False, continued)
        if len(piece) < 2 or self._unwanted.isdisjoint(tokens):
            return tokens
        middle = len(piece) // 2
        return self._halve(piece[:middle], continued) + self._halve(piece[middle:], True)

    def _strips(self, place: Occurrence, text: str) -> tuple[bool, bool]:
        """Tell whether white space left and right of a control token is dropped.

        Some vocabularies have this as an attribute, which llama.cpp does not tell; it shows in what it encodes.
        """
        known = self._strip.get(place.token)
        if known is None:
            special = text[place.start : place.stop]
            encode = self._vocabulary.encode
            known = (
                encode(f"x\n{special}", parse_special=True) == encode(f"x{special}", parse_special=True),
                encode(f"{special}\nx", parse_special=True) == encode(f"{special}x", parse_special=True),
            )
            self._strip[place.token] = known
        return known


def _spaced(text: str) -> str:
    return text.replace("\u2581", " ")


def _uncut(bounds: Sequence[int], place: Occurrence) -> bool:
    """Tell whether no bound is inside `place`."""
    following = bisect_left(bounds, place.start + 1)
    return following == len(bounds) or bounds[following] >= place.stop
