"""How much memory a model will take, before it is loaded."""

from __future__ import annotations

from localllm.backends.base import Backend, ModelSpec
from localllm.backends.lookup import LLAMA_CPP
from localllm.errors import LocalLLMError
from localllm.models.estimate import MemoryEstimate
from localllm.residency.identity import Identity


def llama_estimate(spec: ModelSpec) -> MemoryEstimate:
    """Return how much memory a GGUF model will take with llama.cpp, from its header alone.

    Raises:
        ModelNotFoundError: It is not there.
        InvalidModelFileError: It is no GGUF model, or a damaged one.
        InvalidOptionError: Options that exclude each other.
    """
    from localllm.backends.llamacpp.hardware import free_bytes, physical_cores
    from localllm.backends.llamacpp.sizing import estimate
    from localllm.errors import ModelNotFoundError
    from localllm.models.checks import check_file

    if spec.path is None:
        raise ModelNotFoundError(f"{spec.ref!r} leads to no file")
    return estimate(check_file(spec.path), spec.config, free_bytes=free_bytes(), cores=physical_cores())


def reckon_bytes(backend: Backend, spec: ModelSpec, identity: Identity, *, exactly: bool) -> int:
    """Return the memory that a model will take at most: llama.cpp's estimate, or else the size of its files.

    Args:
        backend: What loads it.
        spec: How.
        identity: Its files.
        exactly: Make the estimate, which takes some hundredths of a second.
    """
    if exactly and backend.name == LLAMA_CPP and spec.path is not None:
        try:
            return llama_estimate(spec).peak_bytes
        except LocalLLMError:  # the load says what is wrong with the file
            pass
    return sum(max(0, stamp.size_bytes) for stamp in identity.files)
