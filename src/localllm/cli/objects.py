"""What `--json` writes: plain objects of errors and models."""

from __future__ import annotations

from localllm.errors import GenerationError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.models.stored import StoredModel, Verification


def error_object(exc: LocalLLMError) -> dict[str, object]:
    """Return what `--json` writes of an error: its class, its message, and the partial reply if there is one."""
    error: dict[str, object] = {"error": {"type": type(exc).__name__, "message": str(exc)}}
    if isinstance(exc, GenerationError) and exc.reply is not None:
        error["reply"] = exc.reply.to_dict()
    return error


def model_object(model: StoredModel) -> dict[str, object]:
    """Return what `--json` writes of a model."""
    return {
        "ref": model.ref,
        "path": str(model.path),
        "size_bytes": model.size_bytes,
        "origin": model.origin,
        "revision": model.revision,
        "commit": model.commit,
        "pulled_at": model.pulled_at,
        "files": [
            {"path": str(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256} for file in model.files
        ],
    }


def info_object(info: ModelInfo) -> dict[str, object]:
    """Return what `--json` writes of a model's header."""
    return {
        "name": info.name,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "quantization": info.quantization,
        "context_length": info.context_length,
        "vocab_size": info.vocab_size,
        "size_bytes": info.size_bytes,
        "chat_template": info.chat_template,
        "template_source": info.template_source,
        "model_hash": info.model_hash,
        "path": str(info.path),
    }


def verification_object(verification: Verification) -> dict[str, object]:
    """Return what `--json` writes of what `verify` found."""
    return {
        "ref": verification.model.ref,
        "ok": verification.ok,
        "files": [
            {"path": str(file.path), "problem": file.problem, "sha256": file.sha256, "expected": file.expected}
            for file in verification.files
        ],
    }
