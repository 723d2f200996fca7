"""`python -m localllm.cli.probe MODEL`: try the llama.cpp backend, a step at a time, and tell by lines of JSON.

The doctor runs this in a process of its own, because a native library that was built for another processor does not
raise: it kills.
"""

from __future__ import annotations

import json
import sys

from localllm.backends.llamacpp.library import system_info
from localllm.backends.llamacpp.repacking import amx_failure
from localllm.errors import LocalLLMError, ModelNotFoundError
from localllm.manager import ModelManager
from localllm.session import ChatSession


def main(ref: str) -> None:
    """Load the native library, then the model `ref`, then generate a few tokens; print a line after each."""
    _say("library", system_info())
    _say("amx", amx_failure() or "")
    try:
        with ModelManager() as models:
            model = models.load(ref)
            _say("model", model.info.name)
            reply = ChatSession(model).send("Hello", max_tokens=16, temperature=0)
            _say("reply", f"{reply.timings.tokens_per_s:.1f}")
    except ModelNotFoundError as exc:
        _say("missing", str(exc))
    except LocalLLMError as exc:
        _say("error", str(exc))


def _say(step: str, detail: str) -> None:
    print(json.dumps({"step": step, "detail": detail}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
