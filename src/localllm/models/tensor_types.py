"""How ggml stores a tensor's values: the block and byte sizes of its types, and the names of whole-file quantizations.

Facts of llama.cpp's public headers (`ggml.h`, `llama.h`) as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Kind = Literal["float", "quantized", "other"]


@frozen
class TensorType:
    """One way of storing a tensor's values.

    Args:
        id: ggml's number for it, as GGUF files hold it.
        name: ggml's name, such as "Q4_1".
        block_size: Values in a block; a tensor's rows are whole blocks.
        block_bytes: Bytes of a block.
        kind: "float" and "quantized" types hold weights that a matrix product can read; "other" ones are indices,
            tables and the intermediate results of ggml, for which it has no matrix product (and checks no pointer).
    """

    id: int
    name: str
    block_size: int
    block_bytes: int
    kind: Kind


TENSOR_TYPES: dict[int, TensorType] = {
    entry.id: entry
    for entry in (
        TensorType(0, "F32", 1, 4, "float"),
        TensorType(1, "F16", 1, 2, "float"),
        TensorType(2, "Q4_0", 32, 18, "quantized"),
        TensorType(3, "Q4_1", 32, 20, "quantized"),
        TensorType(6, "Q5_0", 32, 22, "quantized"),
        TensorType(7, "Q5_1", 32, 24, "quantized"),
        TensorType(8, "Q8_0", 32, 34, "quantized"),
        TensorType(9, "Q8_1", 32, 36, "other"),
        TensorType(10, "Q2_K", 256, 84, "quantized"),
        TensorType(11, "Q3_K", 256, 110, "quantized"),
        TensorType(12, "Q4_K", 256, 144, "quantized"),
        TensorType(13, "Q5_K", 256, 176, "quantized"),
        TensorType(14, "Q6_K", 256, 210, "quantized"),
        TensorType(15, "Q8_K", 256, 292, "other"),
        TensorType(16, "IQ2_XXS", 256, 66, "quantized"),
        TensorType(17, "IQ2_XS", 256, 74, "quantized"),
        TensorType(18, "IQ3_XXS", 256, 98, "quantized"),
        TensorType(19, "IQ1_S", 256, 50, "quantized"),
        TensorType(20, "IQ4_NL", 32, 18, "quantized"),
        TensorType(21, "IQ3_S", 256, 110, "quantized"),
        TensorType(22, "IQ2_S", 256, 82, "quantized"),
        TensorType(23, "IQ4_XS", 256, 136, "quantized"),
        TensorType(24, "I8", 1, 1, "other"),
        TensorType(25, "I16", 1, 2, "other"),
        TensorType(26, "I32", 1, 4, "other"),
        TensorType(27, "I64", 1, 8, "other"),
        TensorType(28, "F64", 1, 8, "other"),
        TensorType(29, "IQ1_M", 256, 56, "quantized"),
        TensorType(30, "BF16", 1, 2, "float"),
        TensorType(34, "TQ1_0", 256, 54, "quantized"),
        TensorType(35, "TQ2_0", 256, 66, "quantized"),
        TensorType(39, "MXFP4", 32, 17, "quantized"),
        TensorType(40, "NVFP4", 64, 36, "quantized"),
        TensorType(41, "Q1_0", 128, 18, "quantized"),
        TensorType(42, "Q2_0", 64, 18, "quantized"),
    )
}
"""Every type that ggml can load, by its number."""

REMOVED_TENSOR_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Types that ggml once had."""


@frozen
class FileType:
    """A whole file's quantization, as `general.file_type` states it.

    Args:
        name: What people call it, such as "Q4_K_M".
        tensor_type: Name of the tensor type that its bulk is stored in; another one means that the statement is wrong.
    """

    name: str
    tensor_type: str


FILE_TYPES: dict[int, FileType] = {
    0: FileType("F32", "F32"),
    1: FileType("F16", "F16"),
    2: FileType("Q4_0", "Q4_0"),
    3: FileType("Q4_1", "Q4_1"),
    7: FileType("Q8_0", "Q8_0"),
    8: FileType("Q5_0", "Q5_0"),
    9: FileType("Q5_1", "Q5_1"),
    10: FileType("Q2_K", "Q2_K"),
    11: FileType("Q3_K_S", "Q3_K"),
    12: FileType("Q3_K_M", "Q3_K"),
    13: FileType("Q3_K_L", "Q3_K"),
    14: FileType("Q4_K_S", "Q4_K"),
    15: FileType("Q4_K_M", "Q4_K"),
    16: FileType("Q5_K_S", "Q5_K"),
    17: FileType("Q5_K_M", "Q5_K"),
    18: FileType("Q6_K", "Q6_K"),
    19: FileType("IQ2_XXS", "IQ2_XXS"),
    20: FileType("IQ2_XS", "IQ2_XS"),
    21: FileType("Q2_K_S", "Q2_K"),
    22: FileType("IQ3_XS", "IQ3_S"),
    23: FileType("IQ3_XXS", "IQ3_XXS"),
    24: FileType("IQ1_S", "IQ1_S"),
    25: FileType("IQ4_NL", "IQ4_NL"),
    26: FileType("IQ3_S", "IQ3_S"),
    27: FileType("IQ3_M", "IQ3_S"),
    28: FileType("IQ2_S", "IQ2_XS"),
    29: FileType("IQ2_M", "IQ2_S"),
    30: FileType("IQ4_XS", "IQ4_XS"),
    31: FileType("IQ1_M", "IQ1_M"),
    32: FileType("BF16", "BF16"),
    36: FileType("TQ1_0", "TQ1_0"),
    37: FileType("TQ2_0", "TQ2_0"),
    38: FileType("MXFP4", "MXFP4"),
    39: FileType("NVFP4", "NVFP4"),
    40: FileType("Q1_0", "Q1_0"),
    41: FileType("Q2_0", "Q2_0"),
}
"""Every quantization of whole files, by llama.cpp's number."""
