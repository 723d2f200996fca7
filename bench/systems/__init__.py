"""The systems that are compared, each behind the same calls: `base.System`.

A system's library is imported by its own module only, and that when the system is opened: a process that measures one
holds nothing of the others, which would count as its memory.
"""

from __future__ import annotations

from bench.systems.base import Setup, System
from bench.systems.llama_python import make_llama

__all__ = ["BARE_LOOP", "LLAMA", "LOCALLLM", "SYSTEMS", "XLLAMACPP", "make_llama", "open_system"]

LOCALLLM = "localllm"
LLAMA = "llama_cpp.Llama"
XLLAMACPP = "xllamacpp"
BARE_LOOP = "bare loop"
SYSTEMS = (LOCALLLM, LLAMA, XLLAMACPP, BARE_LOOP)


def open_system(name: str, setup: Setup) -> System:
    """Return the system of this name; it loads its model when first asked."""
    if name == LOCALLLM:
        from bench.systems.own import LocalLLM

        return LocalLLM(setup)
    if name == LLAMA:
        from bench.systems.llama_python import LlamaCppPython

        return LlamaCppPython(setup)
    if name == XLLAMACPP:
        from bench.systems.llama_server import LlamaServer

        return LlamaServer(setup)
    if name == BARE_LOOP:
        from bench.systems.bare_loop import BareLoop

        return BareLoop(setup)
    raise ValueError(f"no system is called {name!r}; there are {', '.join(SYSTEMS)}")
