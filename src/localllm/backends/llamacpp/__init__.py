"""The llama.cpp backend."""

from localllm.backends.llamacpp.adapter import LlamaCppBackend as LlamaCppBackend

__all__ = ["LlamaCppBackend"]
