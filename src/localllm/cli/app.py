"""The commands and their options, as typer declares them; what they do is in the modules beside this one.

A command's modules are imported when it runs: listing models must not wait for what a chat needs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from localllm._version import __version__
from localllm.cli import FAILED, INTERRUPTED, OK, PIPE_CLOSED, USAGE
from localllm.cli.objects import error_object
from localllm.cli.terminal import Terminal
from localllm.errors import ContextOverflowError, InvalidOptionError, InvalidPromptError, LocalLLMError

if TYPE_CHECKING:
    from localllm.options import GenerationOptions

app: typer.Typer = typer.Typer(
    name="localllm",
    help="Talk to a language model that runs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name and return its exit code."""
    try:
        app(list(arguments), prog_name="localllm")
    except SystemExit as exc:  # how typer ends, always
        return exc.code if isinstance(exc.code, int) else OK
    return OK


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"localllm {__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def chat(
    question: Annotated[
        list[str] | None,
        typer.Argument(help="Without one: talk at the terminal, or answer what is piped in.", show_default=False),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", envvar="LOCALLLM_MODEL", help="An alias, a path, hf:org/repo, ...: see `pull`."),
    ] = "smollm2-135m",
    system: Annotated[str | None, typer.Option(help="Instructions that stay.", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of a reply at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers.")] = None,
    ctx: Annotated[
        int | None, typer.Option(help="Tokens of the context window; by default as trained, if memory allows.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that compute; by default one a core.")] = None,
    backend: Annotated[str | None, typer.Option(help="Name or import path (package.module:Class).")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch a model that is not here without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reply with its figures as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Ask one question, or talk with the model.

    Text that is piped in goes before the question: cat report.txt | localllm chat "Summarize this."

    Exit codes: 0 answered, 1 failed, 2 used wrongly, 130 ended by Ctrl-C, 141 the reader of the output left.
    """
    from localllm.cli.interactive import converse
    from localllm.cli.loading import ChatSettings
    from localllm.cli.oneshot import answer, join
    from localllm.cli.pulling import offer
    from localllm.models.store import ModelStore
    from localllm.options import ModelConfig

    terminal = Terminal.standard()

    def work() -> int:
        settings = ChatSettings(
            model=model,
            system=system,
            backend=backend,
            config=ModelConfig(n_ctx=ctx, threads=threads),
            options=_options(temperature=temperature, max_tokens=max_tokens, seed=seed),
        )
        if backend is None:
            offer(ModelStore(), model, terminal, yes=yes)
        if not question and terminal.interactive and not as_json:
            return converse(settings, terminal)
        prompt = join(" ".join(question or ()), terminal.piped())
        if not prompt:
            terminal.note('no question: write one (localllm chat "Why is the sky blue?") or pipe one in', kind="error")
            return USAGE
        return answer(settings, prompt, terminal, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


Reference = Annotated[str, typer.Argument(help="A path, an alias, hf:org/repo[:Q4_K_M][@revision], an address, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Store = Annotated[
    str | None,
    typer.Option("--store", envvar="LOCALLLM_HOME", help="The folder of models.", show_default=False),
]


@app.command("pull")
def _pull(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Each an alias, hf:org/repo, hf:org/repo:Q4_K_M, hf:org/repo/file.gguf or an https:// URL."
        ),
    ],
    store: Store = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="HF_ENDPOINT", help="The Hub or a mirror of it.", show_default=False)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The checksum that the file must have.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch models, and print where they are.

    What was begun before is gone on with. A token for private models is taken from HF_TOKEN.

    Exit codes: 0 all are there, 1 failed, 2 used wrongly, 130 ended by Ctrl-C.
    """
    from localllm.cli.pulling import pull
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        return pull(ModelStore(store, endpoint=endpoint), models, terminal, sha256=sha256, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


@app.command("list")
def _list(
    everything: Annotated[bool, typer.Option("--all", help="Models of other programs, too.")] = False,
    store: Store = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models that are here."""
    from localllm.cli.shelf import show_list
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        return show_list(ModelStore(store), terminal, others=everything, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


@app.command("inspect")
def _inspect(model: Reference, store: Store = None, as_json: Json = False, debug: Debug = False) -> None:
    """Tell what a model is, from its header."""
    from localllm.cli.shelf import inspect
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        return inspect(ModelStore(store), model, terminal, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


@app.command("estimate")
def _estimate(
    model: Reference,
    n_ctx: Annotated[
        int | None,
        typer.Option("--n-ctx", "--ctx", help="Tokens of the context window; by default as trained, if memory allows."),
    ] = None,
    kv_type: Annotated[str, typer.Option(help="Precision of the KV cache: f16, q8_0 or f32.")] = "f16",
    parallel: Annotated[int | None, typer.Option(help="Replies at once; by default what suits the machine.")] = None,
    store: Store = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell how much memory a model will take, without loading it.

    Exit codes: 0 it fits, or nobody knows what is free; 1 it does not fit.
    """
    from localllm.cli.estimating import clamped, config_of, show_estimate
    from localllm.manager import ModelManager
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        with ModelManager(store=ModelStore(store)) as models:
            found = models.estimate(model, config_of(n_ctx=n_ctx, kv_type=kv_type, n_parallel=parallel))
        if n_ctx is not None and n_ctx > found.n_ctx:
            terminal.note(clamped(n_ctx, found), kind="note")
        return show_estimate(found, model, terminal, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


@app.command("verify")
def _verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Which; by default all of the store.", show_default=False)
    ] = None,
    store: Store = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare models with their checksums.

    Exit codes: 0 all are whole, 1 one is not, or is not here.
    """
    from localllm.cli.shelf import verify
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        return verify(ModelStore(store), models or (), terminal, as_json=as_json)

    raise typer.Exit(_guarded(work, terminal, debug=debug, as_json=as_json))


@app.command("remove")
def _remove(
    models: Annotated[list[str] | None, typer.Argument(help="Which.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    unfinished: Annotated[bool, typer.Option("--partial", help="What is left of unfinished downloads, too.")] = False,
    store: Store = None,
    debug: Debug = False,
) -> None:
    """Delete models that `pull` has fetched; never those of other programs."""
    from localllm.cli.shelf import remove
    from localllm.models.store import ModelStore

    terminal = Terminal.standard()

    def work() -> int:
        if not models and not unfinished:
            terminal.note("nothing to delete: name a model, or say --partial", kind="error")
            return USAGE
        return remove(ModelStore(store), models or (), terminal, yes=yes, partial=unfinished)

    raise typer.Exit(_guarded(work, terminal, debug=debug))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Tell what this machine can run, and what to do about what does not work.

    Exit codes: 0 the default backend works, 1 it does not.
    """
    from localllm.cli.doctor import diagnose

    terminal = Terminal.standard()
    raise typer.Exit(_guarded(lambda: diagnose(terminal, as_json=as_json), terminal, debug=debug))


def _options(*, temperature: float | None, max_tokens: int | None, seed: int | None) -> GenerationOptions:
    """Return the options that were given, checked before a model is loaded for them."""
    from localllm.options import GenerationOptions, RequestOptions

    options = GenerationOptions()
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    RequestOptions.of(options)
    return options


def _guarded(work: Callable[[], int], terminal: Terminal, *, debug: bool, as_json: bool = False) -> int:
    """Return what `work` returns; turn what it raises into one line (and a JSON object) and an exit code."""
    try:
        return work()
    except LocalLLMError as exc:
        if debug:
            terminal.stderr.write(traceback.format_exc())
        if as_json:
            terminal.line(json.dumps(error_object(exc), ensure_ascii=False))
        option = "; on the command line that is --ctx" if isinstance(exc, ContextOverflowError) else ""
        terminal.note(f"{exc}{option}", kind="error")
        return USAGE if isinstance(exc, InvalidOptionError | InvalidPromptError) else FAILED
    except KeyboardInterrupt:
        terminal.end_line()
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left: nobody to tell
        _discard_stdout()
        return PIPE_CLOSED
    except OSError as exc:  # such as a full disk under stdout
        _discard_stdout()
        terminal.note(f"input or output failed: {exc}", kind="error")
        return FAILED


def _discard_stdout() -> None:
    """Send what is still in stdout's buffer nowhere, so that it is not tried again, and complained of, at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
