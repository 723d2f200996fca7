"""A load as a backend does it: the one place where what it raises is made ours."""

from __future__ import annotations

from localllm.backends.base import Backend, LoadedModel, ModelSpec, ProgressCallback
from localllm.errors import LocalLLMError, ModelLoadError
from localllm.residency.identity import Identity


def bring(backend: Backend, spec: ModelSpec, identity: Identity, on_progress: ProgressCallback) -> LoadedModel:
    """Load a model; blocks.

    Args:
        backend: What loads it.
        spec: What is loaded, and how.
        identity: What it was when it was first asked for.
        on_progress: Told how far the load is; False ends it.

    Raises:
        ModelLoadError: It cannot be loaded, or a file of it is another one by now.
        LocalLLMError: As the backend's own load.
    """
    identity.check_unchanged()
    try:
        return backend.load(spec, on_progress)
    except LocalLLMError:
        raise
    except Exception as exc:
        raise ModelLoadError(
            f"the backend {backend.name!r} failed to load {spec.ref!r}: {type(exc).__name__}: {exc}"
        ) from exc
