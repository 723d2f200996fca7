"""`python amx_trial.py FOLDER`: multiply two small matrices with llama.cpp's AMX code, and say so if it is right.

Run in a process of its own, which it may take down; so it is a script that imports nothing of localllm's. The functions
are those of ggml.h, ggml-backend.h and ggml-cpu.h in the libraries that llama-cpp-python has in FOLDER.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path
from typing import TypeAlias

RIGHT = "as expected"
"""What it prints, also where nothing is to be tried: llama.cpp does not use AMX here. An exit code would not do: where
SIGCHLD is ignored, Python takes every child's for 0."""

_WRONG = 3  # the exit code
_PR_SET_DUMPABLE = 4

_F32, _Q8_0 = ctypes.c_int(0), ctypes.c_int(8)  # ggml_type
_BLOCK = 32
_COLUMNS, _OUTPUTS, _ROWS = 64, 64, 40  # rows: a pair of whole tiles, and a part of one
_MEMORY_BYTES = 1 << 20
_THREADS = 2  # the tiles are set up once in each thread
_WEIGHTS = [[(7 * output + 3 * column) % 11 - 5 for column in range(_COLUMNS)] for output in range(_OUTPUTS)]
_INPUTS = [[(column + row) % 5 - 2 for column in range(_COLUMNS)] for row in range(_ROWS)]
_TOLERANCE = 4.0  # of sums up to 300: the inputs are rounded to 8 bits


class _Memory(ctypes.Structure):  # ggml_init_params
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_Argument: TypeAlias = ctypes.c_void_p | ctypes.c_char_p | ctypes.c_size_t | ctypes.c_int64 | ctypes.c_int | _Memory


def main(folder: Path) -> int:
    """Try it; return the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a crash is an answer, too; nobody needs a core dump of it
    library = ctypes.CDLL(str(folder / "libggml.so"))  # finds functions in the libraries that it needs, too
    buffers = _amx_buffers(library)
    if buffers is not None and not agree(products(library, buffers)):
        return _WRONG
    print(RIGHT, flush=True)
    return 0


def agree(found: list[float]) -> bool:
    """Whether these are the products of all inputs with all weights, but for rounding."""
    expected = [sum(map(int.__mul__, row, weight)) for row in _INPUTS for weight in _WEIGHTS]
    return all(abs(one - other) <= _TOLERANCE for one, other in zip(found, expected, strict=True))


def _amx_buffers(library: ctypes.CDLL) -> ctypes.c_void_p | None:
    """Return the kind of buffer whose weights are laid out for AMX; None if there is none."""
    registry = call(library, "ggml_backend_cpu_reg")
    wanted = ctypes.c_char_p(b"ggml_backend_dev_get_extra_bufts")
    address = call(library, "ggml_backend_reg_get_proc_address", registry, wanted).value
    if address is None:
        return None
    kinds_of = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
    for kind in kinds_of(call(library, "ggml_backend_reg_dev_get", registry, ctypes.c_size_t(0))):
        if kind is None:
            return None
        name = call(library, "ggml_backend_buft_name", ctypes.c_void_p(kind)).value
        if name is not None and ctypes.string_at(name) == b"AMX":
            return ctypes.c_void_p(kind)
    return None


def products(library: ctypes.CDLL, buffers: ctypes.c_void_p) -> list[float]:
    """Return the products of all inputs with all weights, as ggml computes them.

    Args:
        library: ggml.
        buffers: The kind of buffer that the weights are put into.
    """
    columns = ctypes.c_int64(_COLUMNS)
    there = call(library, "ggml_init", _Memory(_MEMORY_BYTES, None, True))
    matrix = call(library, "ggml_new_tensor_2d", there, _Q8_0, columns, ctypes.c_int64(len(_WEIGHTS)))
    call(library, "ggml_backend_alloc_ctx_tensors_from_buft", there, buffers)
    packed = b"".join(_q8_0(row) for row in _WEIGHTS)
    size = ctypes.c_size_t(len(packed))
    call(library, "ggml_backend_tensor_set", matrix, ctypes.c_char_p(packed), ctypes.c_size_t(0), size)

    here = call(library, "ggml_init", _Memory(_MEMORY_BYTES, None, False))
    given = call(library, "ggml_new_tensor_2d", here, _F32, columns, ctypes.c_int64(len(_INPUTS)))
    flat = struct.pack(f"{len(_INPUTS) * _COLUMNS}f", *(value for row in _INPUTS for value in row))
    ctypes.memmove(call(library, "ggml_get_data", given), flat, len(flat))
    product = call(library, "ggml_mul_mat", here, matrix, given)
    graph = call(library, "ggml_new_graph", here)
    call(library, "ggml_build_forward_expand", graph, product)
    call(library, "ggml_graph_compute_with_ctx", here, graph, ctypes.c_int(_THREADS))
    count = len(_WEIGHTS) * len(_INPUTS)
    return list(struct.unpack(f"{count}f", ctypes.string_at(call(library, "ggml_get_data", product), 4 * count)))


def _q8_0(values: list[int]) -> bytes:
    """Return small whole numbers as ggml's blocks of a half-precision scale, here 1, and 32 signed bytes."""
    blocks = [values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK)]
    return b"".join(struct.pack(f"<e{_BLOCK}b", 1.0, *block) for block in blocks)


def call(library: ctypes.CDLL, name: str, *arguments: _Argument) -> ctypes.c_void_p:
    """Call a function; what it returns is of use where that is a pointer."""
    function = library[name]
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
