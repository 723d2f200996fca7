"""Dialects: how each family of models writes thoughts and tool calls.

`table` is one table of them; `parser` reads a reply by its row, `composition` makes the grammar that holds a reply to
it, and `dialect` finds the row that goes with a chat template.
"""

from localllm.chat.dialects.dialect import Dialect, dialect_of
from localllm.chat.dialects.parser import ReplyParser
from localllm.chat.dialects.pieces import ParserEvent, Piece

__all__ = ["Dialect", "ParserEvent", "Piece", "ReplyParser", "dialect_of"]
