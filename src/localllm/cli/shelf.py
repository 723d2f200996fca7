"""`localllm list`, `inspect`, `verify` and `remove`: the models that are on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence

from localllm.cli import FAILED, OK
from localllm.cli.bars import bars
from localllm.cli.figures import size
from localllm.cli.objects import info_object, model_object, verification_object
from localllm.cli.terminal import Terminal, on_interrupt, printable
from localllm.errors import DownloadCancelledError
from localllm.models.cancel import Cancellation
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel, Verification


def show_list(store: ModelStore, terminal: Terminal, *, others: bool = False, as_json: bool = False) -> int:
    """Write what is here: a table for a person, a line of tab-separated values for a program, or JSON.

    Args:
        store: What is listed.
        terminal: Where to.
        others: Models of other programs, too.
        as_json: Write one JSON array.

    Returns:
        The exit code.
    """
    models = store.list(others=others)
    if as_json:
        terminal.line(json.dumps([model_object(model) for model in models], ensure_ascii=False))
    elif not terminal.stdout.isatty():
        for model in models:
            terminal.line("\t".join((model.ref, str(model.size_bytes), model.origin, str(model.path))))
    elif not models:
        terminal.note(f"no models in {store.home}; fetch one: localllm pull hf:org/repo")
    else:
        _table(models, terminal)
    return OK


def inspect(store: ModelStore, ref: str, terminal: Terminal, *, as_json: bool = False) -> int:
    """Write what the header of a model says; return the exit code."""
    info = store.inspect(ref)
    if as_json:
        terminal.line(json.dumps(info_object(info), ensure_ascii=False))
        return OK
    template = f"its own, {len(info.chat_template)} characters" if info.chat_template else "none; ChatML stands in"
    rows = (
        ("name", info.name),
        ("architecture", info.architecture),
        ("parameters", f"{info.parameters:,}"),
        ("quantization", info.quantization or "unknown"),
        ("context", f"{info.context_length:,} tokens"),
        ("vocabulary", f"{info.vocab_size:,} tokens"),
        ("size", f"{size(info.size_bytes)} ({info.size_bytes:,} bytes)"),
        ("chat template", template),
        ("hash", info.model_hash),
        ("path", str(info.path)),
    )
    for name, value in rows:
        terminal.line(f"{name:<14} {value}")
    return OK


def verify(store: ModelStore, refs: Sequence[str], terminal: Terminal, *, as_json: bool = False) -> int:
    """Compare models with their checksums.

    Args:
        store: Where they are.
        refs: Which; none means all that the store holds.
        terminal: Where to; a bar is shown on a terminal's stderr.
        as_json: Write one JSON array.

    Returns:
        The exit code: 0 if all are whole, 1 if not.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    wanted = list(refs) or [model.ref for model in store.list() if model.origin == "store"]
    if not wanted:
        terminal.note(f"nothing has been pulled into {store.home}; name a model to compare another one", kind="note")
    cancel, found = Cancellation(), list[Verification]()
    with on_interrupt() as interrupt, bars(terminal) as bar:
        interrupt.stops(cancel.cancel)
        try:
            found = [store.verify(ref, on_progress=bar(ref), cancel=cancel) for ref in wanted]
        except DownloadCancelledError as exc:
            raise KeyboardInterrupt from exc
    if as_json:
        terminal.line(json.dumps([verification_object(verification) for verification in found], ensure_ascii=False))
    else:
        for verification in found:
            for file in verification.files:
                known = "whole" if file.expected else "no checksum is known; its header is good"
                said = file.problem or known
                named = said.startswith(str(file.path))  # as errors about a file's header are
                terminal.line(said if named else f"{file.path}: {said}")
    return OK if all(verification.ok for verification in found) else FAILED


def remove(
    store: ModelStore, refs: Sequence[str], terminal: Terminal, *, yes: bool = False, partial: bool = False
) -> int:
    """Delete models of the store, after asking a person.

    Args:
        store: Where they are.
        refs: Which.
        terminal: Where to ask.
        yes: Do not ask.
        partial: Delete what is left of downloads that were not finished, too.

    Returns:
        The exit code: 1 if the person does not want it.
    """
    models = [store.find(ref) for ref in refs]
    if models and terminal.interactive and not yes:
        total = size(sum(model.size_bytes for model in models))
        question = f"Delete {', '.join(model.ref for model in models)} ({total})? [y/N] "
        terminal.stderr.write(printable(question))
        terminal.stderr.flush()
        answer = terminal.stdin.readline() if terminal.stdin is not None else ""
        if answer.strip().lower() not in ("y", "yes"):
            return FAILED
    for ref in refs:
        terminal.line(f"deleted {store.remove(ref).path}")
    if partial:
        terminal.line(f"deleted unfinished downloads: {size(store.clear_partial())}")
    return OK


def _table(models: Sequence[StoredModel], terminal: Terminal) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("model", "size", "from", "fetched"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for model in models:
        short = model.ref.replace(model.commit, model.commit[:8]) if model.commit else model.ref
        cells = (short, size(model.size_bytes), model.origin, model.pulled_at[:10])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(file=terminal.stdout).print(table)
