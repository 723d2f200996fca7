"""How a family of models writes thoughts and calls: the columns of the table in `table`.

The same texts are read and written. Read, any white space in them stands for any white space or none, and ␣ allows
white space where none is written; written (in grammars, in `write`), they are taken as they stand, without ␣.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

CallForm = Literal["object", "keyed", "named", "tagged", "literal", "python", "nested"]
"""What a call looks like:

object   {"name": "f", "arguments": {"a": 1}}
keyed    {"f": {"a": 1}}
named    f, a mark, {"a": 1}
tagged   f, a mark, then each argument between marks of its own
literal  f{a:1,b:<|"|>text<|"|>}
python   f(a=1, b='text')
nested   f, then each argument between marks of its own, and so inside of objects and lists
"""


@frozen(kw_only=True)
class ThoughtSyntax:
    """How thoughts are set apart.

    Args:
        open: What begins one.
        close: What ends one.
        lead: What is written between `open` and the thought.
        tail: What is written between the thought and `close`.
        gap: What is written between `close` and the text.
        anywhere: Whether one may begin after text, too: where the marks are unmistakable.
        ended_by_calls: Whether a call's mark ends one.
    """

    open: str = "<think>"
    close: str = "</think>"
    lead: str = "\n"
    tail: str = "\n"
    gap: str = "\n\n"
    anywhere: bool = False
    ended_by_calls: bool = False


@frozen(kw_only=True)
class CallSyntax:
    """How calls are written: sections that hold calls.

    Args:
        form: What a call looks like between `open` and `close`.
        lead: What is written before a section, with {name}.
        section_open: What begins a section.
        section_close: What ends one.
        section_optional: Whether calls stand without a section, too.
        open: What begins a call.
        close: What ends one.
        between: What stands between two calls.
        repeat: What there is one more of for each further call.
        parallel: Whether the family makes several calls in one reply.
        start_only: Whether calls are recognized at the reply's start only, and only of tools that there are: for a
            family without a mark.
        name_key: In an object: the key of the name.
        arguments_key: In an object: the key of the arguments.
        id_key: In an object: the key of the call's id, after the arguments; calls are then told of when they are whole.
        index_key: In an object: the key of the call's number, before the name; it is no id, for it repeats.
        header: What stands before the arguments, with {name}, and {id} or {index} where the family has them.
        header_is_id: Whether the header is the call's id.
        name_end: What stands between the header and the arguments, with {index} from 1 where the family counts calls.
        param_open: Tagged: what begins an argument.
        param_attributes: Tagged: what follows the argument's name, with {type} (its JSON type) and {string} (true or
            false); read, it is anything up to `param_name_end`.
        param_name_end: Tagged: what stands between the argument's name and its value.
        param_close: Tagged: what ends an argument.
        param_between: Tagged: what stands between two arguments.
        quotes: Literal: what a text stands between.
        namespace: Nested: what stands before each mark.
        new_id: How an id is made for a call that has none, with {number} and {name}.
    """

    form: CallForm
    lead: str = ""
    section_open: str = ""
    section_close: str = ""
    section_optional: bool = False
    open: str = ""
    close: str = ""
    between: str = ""
    repeat: Literal["call", "section"] = "section"
    parallel: bool = True
    start_only: bool = False
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    index_key: str = ""
    header: str = "{name}"
    header_is_id: bool = False
    name_end: str = ""
    param_open: str = ""
    param_attributes: str = ""
    param_name_end: str = ""
    param_close: str = ""
    param_between: str = ""
    quotes: str = '"'
    namespace: str = ""
    new_id: str = "call{number:05d}"


@frozen(kw_only=True)
class DialectSyntax:
    """How a family writes a reply.

    Args:
        name: The family's.
        thought: How thoughts are set apart; None if there are none.
        calls: How calls are written.
        text_open: What the family writes before text.
        text_close: What it writes behind it.
        silent: More marks that are no text.
        virtual: What the prompt ends with that is a part of the reply's first mark.
        channels: Whether a reply is messages on channels, as gpt-oss writes them.
    """

    name: str
    thought: ThoughtSyntax | None = None
    calls: CallSyntax
    text_open: str = ""
    text_close: str = ""
    silent: tuple[str, ...] = ()
    virtual: str = ""
    channels: bool = False
