"""The file of a cassette: JSON that is laid out for reading and for diffs. `docs/testing.md` has the format.

A file is replaced as a whole, so that a reader finds the old one or the new one, also after a crash. The same
recording is the same bytes. What is read is trusted in nothing: whatever is wrong with it is a CassetteError.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, get_args

from attrs import asdict

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm.backends.cassettes.forms import Form, lines_of, message_form, text_of
from localllm.backends.cassettes.tape import CutCall, Interaction, Part, RecordedReply, Tape
from localllm.backends.worker.details import kinds
from localllm.backends.worker.messages import Failure
from localllm.chat.rendered import RenderedPrompt
from localllm.errors import CassetteError, InvalidPromptError, LocalLLMError
from localllm.logprobs import likely_from, number_of
from localllm.models.info import ModelInfo, TemplateSource
from localllm.types import FINISH_REASONS, Message, TextDelta, TokenLogprob, ToolCall, Usage

VERSION = 1
"""The format's version; a change that older versions would misread raises it."""

_FORMAT = "localllm cassette"
_DIGITS = 4
_MOST_BYTES = 64 << 20  # far more than anybody reads in a diff; a larger file is a mistake, or meant badly
_INFO_TEXTS = ("name", "architecture", "quantization", "template_source", "model_hash")
_INFO_COUNTS = ("parameters", "context_length", "vocab_size", "size_bytes", "n_ctx")
_SOURCES: tuple[TemplateSource, ...] = get_args(TemplateSource)
_USAGE = ("prompt_tokens", "completion_tokens", "thought_tokens")
_ASKED = ("messages", "purpose", "tools", "grammar", "prefix", "options")


def read_tapes(path: Path) -> list[Tape]:
    """Return what the cassette `path` holds.

    Raises:
        CassetteError: It is damaged, none at all, or of a newer version.
        FileNotFoundError: There is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise CassetteError(f"cannot read the cassette {path}: {exc}") from exc
    if len(data) > _MOST_BYTES:
        raise CassetteError(f"the cassette {path} has more than {_MOST_BYTES >> 20} MiB; record less in one file")
    try:
        value: JsonValue = json.loads(data, parse_constant=_no_number)
        return _tapes_from(value, path)
    except CassetteError:
        raise
    except (ValueError, RecursionError, LocalLLMError) as exc:
        raise CassetteError(f"the cassette {path} is damaged: {exc}; record it anew") from exc


def write_tapes(path: Path, tapes: Sequence[Tape]) -> int:
    """Put `tapes` into the cassette `path`, in one step; return its size in bytes.

    Raises:
        CassetteError: It cannot be written.
    """
    content: Form = {"format": _FORMAT, "version": VERSION, "models": [_tape_form(tape) for tape in tapes]}
    data = (text_of(content) + "\n").encode()
    # A name that neither another thread nor another process has; not by `tempfile`, whose files only their owner reads.
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as exc:
        raise CassetteError(f"cannot write the cassette {path}: {exc}") from exc
    return len(data)


def _tape_form(tape: Tape) -> Form:
    form: Form = {"model": tape.ref}
    if tape.config:
        form["config"] = tape.config
    form["info"] = _info_form(tape.info)
    form["requests"] = [_interaction_form(one) for one in tape.recorded]
    prompts = [{**_prompt_form(prompt), "of": key} for key, prompt in tape.prompts.items()]
    tokens = [{"text": lines_of(text), "tokens": _numbers(found)} for text, found in tape.tokens.items()]
    texts = [{"tokens": _numbers(tokens), **_text_form(found)} for tokens, found in tape.texts.items()]
    for name, entries in (("rendered", prompts), ("tokenized", tokens), ("detokenized", texts)):
        if entries:  # in an order of their own: which thread asked first must not show
            form[name] = sorted(entries, key=text_of)
    return form


def _info_form(info: ModelInfo) -> Form:
    values = asdict(info)
    return {name: values[name] for name in (*_INFO_TEXTS, *_INFO_COUNTS) if values[name]}


def _interaction_form(one: Interaction) -> Form:
    reply = one.reply
    form: Form = {**one.asked, "reply": [_part_form(part) for part in reply.parts]}
    if reply.tool_calls != tuple(part for part in reply.parts if isinstance(part, ToolCall)):
        form["tool_calls"] = [call.to_dict() for call in reply.tool_calls]
    form["finish_reason"] = reply.finish_reason
    form["usage"] = {name: count for name in _USAGE if (count := getattr(reply.usage, name))}
    if reply.notes:
        form["notes"] = list(reply.notes)
    if reply.taken_chars:
        form["taken_chars"] = reply.taken_chars
    if reply.error is not None:
        form.update(_failure_form(reply.error))
    return form


def _part_form(part: Part) -> Form:
    match part:
        case TextDelta() if part.logprobs:
            return {part.segment: lines_of(part.text), "logprobs": [_logprob_form(one) for one in part.logprobs]}
        case TextDelta():
            return {part.segment: lines_of(part.text)}
        case ToolCall():
            return {"call": part.to_dict()}
        case CutCall():
            return {"cut_call": {"id": part.id, "name": part.name, "arguments": part.arguments}}


def _logprob_form(one: TokenLogprob) -> JsonValue:
    """Return a token with its text and log-probability, and the likeliest ones likewise; digits beyond are noise."""
    top: JsonValue = [[token, text, number_of(round(logprob, _DIGITS))] for token, text, logprob in one.top]
    return [one.token, one.text, number_of(round(one.logprob, _DIGITS)), *([top] if one.top else [])]


def _failure_form(failure: Failure) -> Form:
    said: Form = json.loads(failure.details)
    return {"error": {"kind": failure.kind, "message": lines_of(failure.message), **said}}


def _prompt_form(prompt: RenderedPrompt | Failure) -> Form:
    if isinstance(prompt, Failure):
        return _failure_form(prompt)
    return {"prompt": lines_of(prompt.text), "tokens": _numbers(prompt.tokens)}


def _text_form(found: str | Failure) -> Form:
    return _failure_form(found) if isinstance(found, Failure) else {"text": lines_of(found)}


def _numbers(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens))  # one line, however many: nobody compares tokens by eye


def _tapes_from(value: JsonValue, path: Path) -> list[Tape]:
    data = as_object(value, "a cassette")
    if data.get("format") != _FORMAT:
        raise CassetteError(f'{path} is no cassette: it lacks "format": "{_FORMAT}"')
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CassetteError(f"{path} is no cassette: its version is {version!r:.80}")
    if version > VERSION:
        raise CassetteError(
            f"the cassette {path} was written by a newer localllm (format {version}, this one reads up to {VERSION}); "
            "update localllm, or record it anew"
        )
    check_keys(data, "cassette", required=("format", "version", "models"), optional=())
    return [_tape_from(as_object(item, "a model")) for item in as_list(data["models"], "models")]


def _tape_from(data: Mapping[str, JsonValue]) -> Tape:
    lists = ("rendered", "tokenized", "detokenized")
    check_keys(data, "model of a cassette", required=("model", "info", "requests"), optional=("config", *lists))
    entries = {name: [as_object(entry, name) for entry in as_list(data.get(name, ()), name)] for name in lists}
    requests = as_list(data["requests"], "requests")
    return Tape(
        ref=check_text(data["model"], "model"),
        config=dict(as_object(data.get("config", {}), "config")),
        info=_info_from(as_object(data["info"], "info")),
        interactions=[_interaction_from(as_object(one, "a request")) for one in requests],
        prompts={check_text(entry.get("of"), "of"): _prompt_from(entry) for entry in entries["rendered"]},
        tokens={_joined(entry.get("text"), "text"): _tokens(entry.get("tokens")) for entry in entries["tokenized"]},
        texts={_tokens(entry.get("tokens")): _text_from(entry) for entry in entries["detokenized"]},
    )


def _info_from(data: Mapping[str, JsonValue]) -> ModelInfo:
    check_keys(data, "info", required=("name",), optional=(*_INFO_TEXTS, *_INFO_COUNTS))
    texts = {name: check_text(data[name], f"info.{name}") for name in _INFO_TEXTS if name in data}
    counts = {name: _count(data[name], f"info.{name}") for name in _INFO_COUNTS if name in data}
    source = next((one for one in _SOURCES if one == texts.get("template_source", "model")), None)
    if source is None:
        raise InvalidPromptError(f"info.template_source must be one of {', '.join(_SOURCES)}")
    return ModelInfo(
        name=texts["name"],
        architecture=texts.get("architecture", ""),
        parameters=counts.get("parameters", 0),
        quantization=texts.get("quantization", ""),
        context_length=counts.get("context_length", 0),
        vocab_size=counts.get("vocab_size", 0),
        size_bytes=counts.get("size_bytes", 0),
        template_source=source,
        model_hash=texts.get("model_hash", ""),
        n_ctx=counts.get("n_ctx", 0),
    )


def _interaction_from(data: Mapping[str, JsonValue]) -> Interaction:
    reply_names = ("reply", "finish_reason", "usage")
    check_keys(
        data,
        "request of a cassette",
        required=("messages", *reply_names),
        optional=(*_ASKED[1:], "tool_calls", "error", "notes", "taken_chars"),
    )
    asked: Form = {name: data[name] for name in _ASKED if name in data}
    if asked.get("purpose", "complete") != "complete":
        raise InvalidPromptError(f"a request's purpose can be 'complete' or left out; got {asked['purpose']!r:.80}")
    asked["messages"] = [_message_form_from(item) for item in as_list(data["messages"], "messages")]
    finish = data["finish_reason"]
    if finish not in FINISH_REASONS:
        raise InvalidPromptError(f"unknown finish_reason {finish!r:.80}; one of {', '.join(FINISH_REASONS)}")
    failed = "error" in data
    if failed != (finish == "error") and not (failed and finish == "timeout"):
        raise InvalidPromptError(f'finish_reason {finish!r} {"with" if failed else "without"} an "error"')
    parts = tuple(_part_from(as_object(item, "a part of a reply")) for item in as_list(data["reply"], "reply"))
    calls = tuple(part for part in parts if isinstance(part, ToolCall))
    if "tool_calls" in data:
        calls = tuple(ToolCall.from_dict(as_object(one, "a call")) for one in as_list(data["tool_calls"], "tool_calls"))
    usage = as_object(data["usage"], "usage")
    check_keys(usage, "usage", required=(), optional=_USAGE)
    counts = {name: _count(value, f"usage.{name}") for name, value in usage.items()}
    error = _failure_from(data) if failed else None
    notes = tuple(check_text(note, "a note") for note in as_list(data.get("notes", ()), "notes"))
    reply = RecordedReply(
        parts=parts,
        finish_reason=finish,
        usage=Usage(**counts),
        tool_calls=calls,
        error=error,
        notes=notes,
        taken_chars=_count(data.get("taken_chars", 0), "taken_chars"),
    )
    return Interaction(asked, reply)


def _message_form_from(item: JsonValue) -> Form:
    data = dict(as_object(item, "a message"))
    for name in ("content", "thought"):
        if name in data:
            data[name] = _joined(data[name], f"a message's {name}")
    return message_form(Message.from_dict(data))


def _part_from(data: Mapping[str, JsonValue]) -> Part:
    match data:
        case {"text": text}:
            check_keys(data, "text of a reply", required=("text",), optional=("logprobs",))
            return TextDelta(_not_empty(_joined(text, "a reply's text")), "text", logprobs=_logprobs_from(data))
        case {"thought": text}:
            check_keys(data, "thought of a reply", required=("thought",), optional=("logprobs",))
            return TextDelta(_not_empty(_joined(text, "a thought")), "thought", logprobs=_logprobs_from(data))
        case {"call": call, **others} if not others:
            return ToolCall.from_dict(as_object(call, "a call"))
        case {"cut_call": {"id": str(call_id), "name": str(name), "arguments": str(arguments)}, **others} if not others:
            return CutCall(*(check_text(text, "a cut call") for text in (call_id, name, arguments)))
        case _:
            raise InvalidPromptError(f"no part of a reply: {dict(data)!r:.120}")


def _not_empty(text: str) -> str:
    if not text:
        raise InvalidPromptError("a part of a reply is empty")
    return text


def _logprobs_from(data: Mapping[str, JsonValue]) -> tuple[TokenLogprob, ...]:
    return tuple(_logprob_from(item) for item in as_list(data.get("logprobs", ()), "logprobs"))


def _logprob_from(item: JsonValue) -> TokenLogprob:
    token, text, logprob = likely_from(as_list(item, "a log-probability")[:3])
    top = [
        likely_from(one) for rest in as_list(item, "a log-probability")[3:] for one in as_list(rest, "the likeliest")
    ]
    return TokenLogprob(token, text, logprob, tuple(top))


def _failure_from(data: Mapping[str, JsonValue]) -> Failure:
    error = as_object(data["error"], "error")
    said = {name: value for name, value in error.items() if name not in ("kind", "message")}
    check_keys(error, "error", required=("kind", "message"), optional=tuple(said))
    kind = check_text(error["kind"], "error.kind")
    if kind not in kinds():
        raise InvalidPromptError(f"error.kind is {kind!r:.80}, which is no exception of localllm")
    details = json.dumps(said, sort_keys=True)
    return Failure(kind=kind, message=_joined(error["message"], "error.message"), details=details)


def _prompt_from(entry: Mapping[str, JsonValue]) -> RenderedPrompt | Failure:
    if "error" in entry:
        return _failure_from(entry)
    check_keys(entry, "rendered prompt", required=("of", "prompt", "tokens"), optional=())
    return RenderedPrompt(_joined(entry["prompt"], "prompt"), _tokens(entry["tokens"]))


def _text_from(entry: Mapping[str, JsonValue]) -> str | Failure:
    return _failure_from(entry) if "error" in entry else _joined(entry.get("text"), "text")


def _tokens(value: JsonValue) -> tuple[int, ...]:
    text = check_text(value, "tokens")
    words = text.split()
    if not all(word.removeprefix("-").isdecimal() and word.isascii() and len(word) < 30 for word in words):
        raise InvalidPromptError(f"tokens must be numbers with spaces between; got {text!r:.80}")
    return tuple(map(int, words))


def _count(value: JsonValue, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidPromptError(f"{what} must be an integer from 0; got {value!r:.80}")
    return value


def _joined(value: JsonValue, what: str) -> str:
    """Return the text that `lines_of` has made lines of."""
    if isinstance(value, str):
        return check_text(value, what)
    return "".join(check_text(line, what) for line in as_list(value, what))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
