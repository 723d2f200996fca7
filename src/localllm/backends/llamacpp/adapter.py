"""The llama.cpp backend: models loaded from GGUF files into this process and served by the engine."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from attrs import evolve

from localllm.backends.base import (
    Backend,
    GenerateHandle,
    GenerateRequest,
    LoadedModel,
    LoadProgress,
    ModelSpec,
    ProgressCallback,
    Sink,
)
from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.defaults import Shape, compute_for, limits_for
from localllm.backends.llamacpp.grammars import Grammars
from localllm.backends.llamacpp.hardware import Machine, free_bytes, physical_cores
from localllm.backends.llamacpp.library import library
from localllm.backends.llamacpp.mapped import let_go
from localllm.backends.llamacpp.preparation import Preparation, Prepared
from localllm.backends.llamacpp.prompts import PromptCache, prompt_folder
from localllm.backends.llamacpp.requests import RequestDesk
from localllm.backends.llamacpp.rope import rope_for
from localllm.backends.llamacpp.sampling import check_bias
from localllm.backends.llamacpp.sizing import estimate, fitted
from localllm.backends.llamacpp.states import StateFiles, state_format
from localllm.backends.llamacpp.token_model import Compute, LlamaTokenModel, LlamaVocabulary
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects import dialect_of
from localllm.chat.rendered import RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, RAW, ChatTemplate
from localllm.chat.vocabulary import Vocabulary
from localllm.engine.engine import Engine, EngineLimits
from localllm.engine.stats import ModelStats
from localllm.errors import ClosedError, InvalidOptionError, ModelLoadError
from localllm.models.checks import check_file
from localllm.models.describe import model_info
from localllm.models.footprint import read_footprint
from localllm.models.gguf import GGUFHeader
from localllm.models.info import ModelInfo, TemplateSource
from localllm.models.splits import part_paths
from localllm.options import ModelConfig
from localllm.saved.state import StateUse
from localllm.types import Message

_open_models: weakref.WeakSet[LlamaModel] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is still open before the interpreter goes: native threads must not outlive it."""
    for model in list(_open_models):
        model.close()


class _Gate:
    """Lets callers in until it is closed, and tells when the last of them has left."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Keep native memory alive within the block. Raises ClosedError once closed."""
        with self._changed:
            if self._closed:
                raise ClosedError("the model is closed; load it again")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> bool:
        """Let nobody in any more and wait for those inside; False if it was closed before."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.wait_for(lambda: self._inside == 0)
            return first


class LlamaModel(LoadedModel):
    """A GGUF model in this process; made by `LlamaCppBackend.load`.

    Args:
        native: The weights; owned.
        info: Its facts, as loaded.
        template: The chat template.
        compute: How contexts compute.
        limits: How the engine is cut.
        config: The rest of how it was loaded.

    Raises:
        MemoryError: There is no memory for the context.
    """

    can_resume: ClassVar[bool] = True

    def __init__(
        self,
        native: NativeModel,
        info: ModelInfo,
        template: ChatTemplate,
        compute: Compute,
        limits: EngineLimits,
        config: ModelConfig,
    ) -> None:
        self._native = native
        self._info = info
        vocabulary: Vocabulary = LlamaVocabulary(native, info.model_hash)
        self._renderer = PromptRenderer(template, vocabulary)
        dialect = None if info.template_source == "none" else dialect_of(template.source)
        self._preparation = Preparation(self._renderer, vocabulary, dialect, template.source, limits.n_ctx)
        special = frozenset(vocabulary.special_tokens.values())
        grammars = Grammars(native, special, self._renderer.encode_plain)
        self._gate = _Gate()
        self._engine = Engine(LlamaTokenModel(native, compute), limits, info.model_hash)
        form = state_format(compute)
        self._states = StateFiles(self._engine, info.model_hash, form)
        self._prompts: PromptCache | None = None
        folder = prompt_folder(config, form, info.model_hash, can_cut=native.can_cut)
        if folder is not None:
            most_bytes = min(config.prompt_cache_bytes, config.cache_ram_bytes)
            self._prompts = PromptCache(self._states, folder, self._opening, most_bytes)
        under_way = limits.n_parallel + config.max_queue
        self._desk = RequestDesk(self._engine, self._prepare, grammars, under_way, self._prompts)
        _open_models.add(self)

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as loaded."""
        return self._info

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Begin to answer; see `LoadedModel.generate`."""
        return self._desk.submit(request, sink)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text; see `LoadedModel.tokenize`."""
        with self._gate.inside():
            return tuple(self._renderer.encode_plain(text))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; see `LoadedModel.detokenize`."""
        with self._gate.inside():
            given: Sequence[object] = tokens  # what users pass
            for token in given:
                if not isinstance(token, int) or not 0 <= token < self._native.n_vocab:
                    raise InvalidOptionError(
                        f"{token!r} is no token; the vocabulary ends at {self._native.n_vocab - 1}"
                    )
            return self._native.detokenize(tokens).decode("utf-8", "replace")

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the exact prompt; see `LoadedModel.render`."""
        with self._gate.inside():
            return self._preparation.render(GenerateRequest(messages=tuple(messages), tools=tuple(tools)))

    def save_state(self, request: GenerateRequest, path: Path, offset: int) -> StateUse:
        """Write what is cached of a prompt into a file; see `LoadedModel.save_state`."""
        with self._gate.inside():
            tokens = self._preparation.prepare(request).tokens
        return self._states.save(tokens, path, offset)

    def load_state(self, path: Path) -> StateUse:
        """Take a state from a saved session; see `LoadedModel.load_state`."""
        return self._states.load(path)

    def on_step(self, tell: Callable[[], object]) -> None:
        """Have `tell` called after each step of the engine; see `LoadedModel.on_step`."""
        self._engine.on_step = tell

    def stats(self) -> ModelStats:
        """Return the figures so far."""
        return self._engine.stats()

    def close(self) -> None:
        """End running requests as cancelled and free everything; a second call does nothing."""
        self._desk.close()
        if self._prompts is not None:
            self._prompts.close()
        self._engine.close()
        if self._gate.close():
            self._native.close()
            _open_models.discard(self)

    def _opening(self, request: GenerateRequest) -> Sequence[int]:
        with self._gate.inside():
            return self._preparation.opening(request)

    def _prepare(self, request: GenerateRequest) -> Prepared:
        """Prepare a request; its tokens are checked against the context window and the vocabulary."""
        prepared = self._preparation.prepare(request)
        check_bias(request.options, self._native.n_vocab)
        return prepared


class LlamaCppBackend(Backend):
    """Loads GGUF models with llama.cpp, in this process."""

    name: ClassVar[str] = "llama.cpp"
    uses_files: ClassVar[bool] = True

    def __init__(self) -> None:
        self._models: weakref.WeakSet[LlamaModel] = weakref.WeakSet()
        self._closed = False

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LlamaModel:
        """Load a model; see `Backend.load`.

        Raises:
            BackendUnavailableError: llama-cpp-python is missing.
            InvalidModelFileError: The file is no GGUF model, or damaged, or has no vocabulary.
            InsufficientMemoryError: It doesn't fit into memory.
            LoadCancelledError: `on_progress` returned False.
            ModelLoadError: llama.cpp cannot load it, or there is no memory for it.
            ClosedError: The backend is closed.
        """
        if self._closed:
            raise ClosedError("the llama.cpp backend is closed; make a new one")
        if spec.path is None:
            raise ModelLoadError(f"the llama.cpp backend loads files, and {spec.ref!r} led to none")
        header = check_file(spec.path)
        info = model_info(spec.path)
        layers = _gpu_layers(spec.config)
        on_gpu = bool(layers) and bool(library().llama_supports_gpu_offload())
        machine = Machine(cores=physical_cores(), free_bytes=free_bytes(), gpu=on_gpu)
        config = spec.config
        if not on_gpu:  # how much memory a GPU has isn't known here
            found = estimate(header, config, free_bytes=machine.free_bytes, cores=machine.cores)
            config = fitted(config, found, spec.ref)
        native = _weights(header, config, layers, on_progress)
        try:
            model = self._serve(native, info, config, machine, read_footprint(header).usual_kv)
        except MemoryError as exc:
            native.close()
            raise ModelLoadError(str(exc)) from exc
        except BaseException:
            native.close()
            raise
        self._models.add(model)
        return model

    def close(self) -> None:
        """Close every model that is still open, and load no more."""
        self._closed = True
        for model in list(self._models):
            model.close()

    def _serve(
        self, native: NativeModel, info: ModelInfo, config: ModelConfig, machine: Machine, usual_kv: int
    ) -> LlamaModel:
        if not native.has_decoder:
            raise ModelLoadError(f"{info.path} is no model that generates text ({info.architecture})")
        shape = Shape(n_ctx_train=native.n_ctx_train, kv_values=usual_kv, n_swa=native.n_swa)
        limits = limits_for(config, machine, shape)
        rope = rope_for(config, limits.n_ctx, native.n_ctx_train)
        compute = evolve(compute_for(config, machine, limits), rope=rope)
        template, source = _template(config, info)
        info = evolve(
            info,
            backend=self.name,
            n_ctx=limits.n_ctx,
            n_parallel=limits.n_parallel,
            max_queue=config.max_queue,
            template_source=source,
            gpu_layers=native.n_layers if machine.gpu else 0,
        )
        return LlamaModel(native, info, template, compute, limits, config)


"""The template of `chat_template="none"`: all text is content, so that nothing becomes a control token."""


def _template(config: ModelConfig, info: ModelInfo) -> tuple[ChatTemplate, TemplateSource]:
    if config.chat_template == "none":
        return ChatTemplate(RAW), "none"
    if config.chat_template is not None:
        return ChatTemplate(config.chat_template), "config"
    if info.chat_template is not None:
        return ChatTemplate(info.chat_template), "model"
    return ChatTemplate(CHATML), "builtin"


def _gpu_layers(config: ModelConfig) -> int:
    return -1 if config.gpu_layers == "auto" else config.gpu_layers


def _weights(header: GGUFHeader, config: ModelConfig, layers: int, on_progress: ProgressCallback | None) -> NativeModel:
    """Load the weights, once only even where llama.cpp copies them out of the mapped file."""
    told = _fraction(on_progress)
    native = NativeModel(header.path, gpu_layers=layers, mmap=config.mmap, repack=config.repack, on_progress=told)
    if native.repacks and config.mmap:
        let_go(part_paths(header))
    return native


def _fraction(on_progress: ProgressCallback | None) -> Callable[[float], bool] | None:
    """Return llama.cpp's kind of progress function for ours; fractions never fall."""
    if on_progress is None:
        return None
    highest = 0.0

    def tell(fraction: float) -> bool:
        nonlocal highest
        highest = min(max(highest, fraction), 1.0)
        return on_progress(LoadProgress("loading", highest)) is not False

    return tell
