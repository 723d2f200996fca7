"""What the systems over llama-cpp-python's bindings share."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def can_repack() -> bool:
    """Whether weights may be repacked for this processor; see the function of this name in localllm.

    Written again here because a peer's process does not load localllm, whose memory would count as the peer's.
    """
    from llama_cpp import llama_cpp as native

    info: bytes = native.llama_print_system_info()
    if b"AMX_INT8 = 1" not in info:
        return True
    spec = find_spec("localllm")
    if spec is None or spec.origin is None:
        raise RuntimeError("localllm is not installed")
    trial = Path(spec.origin).parent / "backends" / "llamacpp" / "amx_trial.py"
    command = [sys.executable, "-I", "-S", str(trial), str(Path(native._lib._name).parent)]
    return subprocess.run(command, capture_output=True).stdout.strip() == b"as expected"


def about_bindings() -> str:
    """Return a sentence on the build of llama.cpp that llama-cpp-python brings."""
    import llama_cpp

    features = features_of(llama_cpp.llama_cpp.llama_print_system_info().decode())
    repacked = (
        "weights repacked where llama.cpp wants it"
        if can_repack()
        else "weights not repacked, for its AMX code crashes here"
    )
    return f"llama-cpp-python {llama_cpp.__version__} was built for {features}; {repacked}."


def features_of(system_info: str) -> str:
    """Return what llama.cpp's line on itself says it uses."""
    parts = [part.rpartition(":")[2].partition("=") for part in system_info.split("|")]
    return ", ".join(name.strip() for name, _, value in parts if value.strip() == "1")
