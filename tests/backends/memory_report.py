"""What llama.cpp itself says that a model and its contexts take, beside the estimate.

    python -m tests.backends.memory_report

prints the table of docs/estimate.md. The figures are sizes of allocations, the same on a busy machine.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal

from attrs import frozen

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.defaults import Shape, compute_for, limits_for
from localllm.backends.llamacpp.hardware import Machine
from localllm.backends.llamacpp.sizing import estimate
from localllm.backends.llamacpp.token_model import LlamaTokenModel
from localllm.models.checks import check_file
from localllm.models.estimate import KvType, MemoryEstimate
from localllm.models.footprint import read_footprint
from localllm.models.gguf import GGUFHeader
from localllm.models.store import ModelStore
from localllm.options import ModelConfig
from tests.models.sized import GEMMA, LLAMA, QWEN, write_sized

Part = Literal["weights", "kv", "state", "compute", "output"]

MIB = 1 << 20
CORES = 2
SIZES: tuple[int, ...] = (512, 4096, 8192)
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")
_MACHINE = Machine(cores=CORES, free_bytes=None)
_LINES: dict[Part, re.Pattern[str]] = {
    "weights": re.compile(r"model buffer size = +([0-9.]+) MiB"),
    "kv": re.compile(r"KV buffer size = +([0-9.]+) MiB"),
    "state": re.compile(r"RS buffer size = +([0-9.]+) MiB"),
    "compute": re.compile(r"compute buffer size is +([0-9.]+) MiB"),  # said when it is freed, to four places
    "output": re.compile(r"output buffer size = +([0-9.]+) MiB"),
}


@frozen(kw_only=True)
class Reported:
    """Bytes that llama.cpp says it allocated, to its two places in MiB."""

    weights: float
    kv: float
    state: float
    compute: float
    output: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv + self.state + self.compute + self.output


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())

    def bytes_of(self, part: Part) -> float:
        """Return the sum of what was said of a part."""
        return sum(float(match[1]) * MIB for line in self.lines if (match := _LINES[part].search(line)))


@contextmanager
def _listening() -> Iterator[_Lines]:
    logger, handler = logging.getLogger("localllm.llama"), _Lines()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Measured:
    """A model that is loaded to be measured.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self.header: GGUFHeader = check_file(path)
        with _listening() as log:
            self._native = NativeModel(path, repack=False)  # copies that take the place of pages are not reported twice
        self._weights = log.bytes_of("weights")

    def close(self) -> None:
        """Free it."""
        self._native.close()

    def estimated(self, config: ModelConfig) -> MemoryEstimate:
        """Return the estimate from the header."""
        return estimate(self.header, config, free_bytes=None, cores=CORES)

    def reported(self, config: ModelConfig) -> Reported:
        """Open the context that the engine would have at its ceiling, free it, and return what llama.cpp said."""
        native = self._native
        usual_kv = read_footprint(self.header).usual_kv
        shape = Shape(n_ctx_train=native.n_ctx_train, kv_values=usual_kv, n_swa=native.n_swa)
        limits = limits_for(config, _MACHINE, shape)
        model = LlamaTokenModel(native, compute_for(config, _MACHINE, limits))
        with _listening() as log:
            model.open_context(limits.n_ctx, limits.n_sequences).close()
        return Reported(
            weights=self._weights,
            kv=log.bytes_of("kv"),
            state=log.bytes_of("state"),
            compute=log.bytes_of("compute"),
            output=log.bytes_of("output"),
        )


@contextmanager
def measured(path: Path) -> Iterator[Measured]:
    """Load the model at `path` to be measured."""
    model = Measured(path)
    try:
        yield model
    finally:
        model.close()


def configs(sizes: Sequence[int] = SIZES) -> list[ModelConfig]:
    """Return every combination of context, precision of the KV cache, and replies at once."""
    return [
        ModelConfig(n_ctx=n_ctx, kv_type=kv_type, n_parallel=n_parallel)
        for n_ctx, kv_type, n_parallel in product(sizes, KV_TYPES, (1, 8))
    ]


def _rows(name: str, model: Measured) -> Iterator[str]:
    for config in configs():
        found, said = model.estimated(config), model.reported(config)
        pairs = (
            (found.weights_bytes, said.weights),
            (found.kv_bytes + found.state_bytes, said.kv + said.state),
            (found.compute_bytes, said.compute),
            (found.output_bytes, said.output),
            (found.total_bytes, said.total),
        )
        figures = " | ".join(f"{ours / MIB:.1f} / {theirs / MIB:.1f}" for ours, theirs in pairs)
        off = f"{100 * (found.total_bytes / said.total - 1):+.1f}%"
        yield f"| {name} | {config.n_ctx:,} | {config.kv_type} | {config.n_parallel} | {figures} | {off} |"


def main() -> None:
    """Print the table."""
    print("| model | context | KV | replies | weights | KV cache | compute | output | total | off by |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        models = {"SmolLM2-135M Q4_1": ModelStore().resolve("smollm2-135m")}
        for name, sizes in (("llama", LLAMA), ("gemma3", GEMMA), ("qwen2", QWEN)):
            models[f"{name}, synthetic"] = write_sized(Path(folder) / f"{name}.gguf", sizes)
        for name, path in models.items():
            with measured(path) as model:
                for row in _rows(name, model):
                    print(row)


if __name__ == "__main__":
    main()
