"""`localllm estimate`: how much memory a model will take, before it is loaded."""

from __future__ import annotations

import json

from attrs import asdict

from localllm.cli import FAILED, OK
from localllm.cli.figures import size
from localllm.cli.terminal import Terminal, printable
from localllm.errors import InvalidOptionError
from localllm.models.estimate import KvType, MemoryEstimate
from localllm.options import ModelConfig

Row = tuple[str, int, str]
"""What it is, its bytes, and what to know of it."""


_KV_TYPES: dict[str, KvType] = {"f16": "f16", "q8_0": "q8_0", "f32": "f32"}


def config_of(*, n_ctx: int | None, kv_type: str, n_parallel: int | None) -> ModelConfig:
    """Return the config that the options say.

    Raises:
        InvalidOptionError: One is out of range.
    """
    if kv_type not in _KV_TYPES:
        raise InvalidOptionError(f"--kv-type must be one of {', '.join(_KV_TYPES)}; got {kv_type!r:.80}")
    return ModelConfig(n_ctx=n_ctx, kv_type=_KV_TYPES[kv_type], n_parallel=n_parallel)


def show_estimate(found: MemoryEstimate, ref: str, terminal: Terminal, *, as_json: bool = False) -> int:
    """Write an estimate: a table for a person, lines of name, tab and figure for a program, or JSON.

    Args:
        found: The estimate.
        ref: The model.
        terminal: Where to.
        as_json: Write one JSON object.

    Returns:
        The exit code: 1 if the model does not fit into the memory that is free.
    """
    if as_json:
        terminal.line(json.dumps({"ref": ref, **asdict(found)}, ensure_ascii=False))
    elif not terminal.stdout.isatty():
        for name, value in asdict(found).items():
            terminal.line(f"{name}\t{'unknown' if value is None else str(value).lower()}")
    else:
        _table(found, ref, terminal)
    return FAILED if found.fits is False else OK


def clamped(n_ctx: int, found: MemoryEstimate) -> str:
    """Return the note that a longer context was asked for than a load would make."""
    return f"--n-ctx {n_ctx} is more than the {found.n_ctx} tokens that the model was trained with; these are reckoned"


def _table(found: MemoryEstimate, ref: str, terminal: Terminal) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{ref}: {found.n_ctx:,} tokens of context, {found.n_parallel} replies at once"
    table = Table(title=Text(printable(title), style="bold"), title_justify="left", box=None, show_header=False)
    table.add_column(justify="left", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="left", style="dim", overflow="fold")
    for name, count, note in _rows(found):
        table.add_row(name, size(count), note)
    console = Console(file=terminal.stdout)
    console.print(table)
    console.print(Text(verdict(found)))


def _rows(found: MemoryEstimate) -> list[Row]:
    rows: list[Row] = [
        ("weights", found.weights_bytes, "shared by processes that map the same file"),
        ("KV cache", found.kv_bytes, f"{size(found.kv_bytes_per_1000_tokens)} for 1,000 tokens"),
    ]
    if found.state_bytes:
        rows.append(("states", found.state_bytes, "of recurrent layers"))
    return [
        *rows,
        ("compute", found.compute_bytes + found.work_bytes, "intermediate results"),
        ("outputs", found.output_bytes, "logits"),
        ("vocabulary", found.vocabulary_bytes, ""),
        ("at first", found.first_bytes, "as soon as it is loaded; the context grows with use"),
        ("in all", found.total_bytes, "at the full context"),
        ("at most", found.peak_bytes, "while the context grows to its full length"),
    ]


def verdict(found: MemoryEstimate) -> str:
    """Return in a sentence whether it fits, and what would."""
    if found.fits is None or found.free_bytes is None:
        return "How much memory is free is not known here."
    free = f"{size(found.free_bytes)} are free"
    longest = f"the longest context that fits is {found.largest_n_ctx:,} tokens"
    if found.fits:
        return f"It fits: {free}; {longest}."
    if found.largest_n_ctx:
        return f"It does not fit: {free}; {longest} (--n-ctx {found.largest_n_ctx})."
    return f"It does not fit with any context: {free}. A smaller model, or stronger quantization, would do."
