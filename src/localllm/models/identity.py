"""Which model is this: a hash that tells models apart in milliseconds, whatever their size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from localllm.models.gguf import GGUFHeader
from localllm.models.header_bytes import open_regular

_SAMPLE_BYTES = 64 * 1024


def model_hash(parts: Iterable[GGUFHeader]) -> str:
    """Return the identity of a model: SHA-256 of its headers, sizes and three samples of each file's data.

    It tells models apart, to know whether tokens and cached states belong to one. It does not show that a file is
    whole or untouched: a change between the samples goes unseen. For that, hash the whole file.

    Args:
        parts: The headers of the model's files, the first file first.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelNotFoundError: A file is gone.
        InvalidModelFileError: A file is no longer a regular file with something in it.
        ModelLoadError: A file cannot be opened.
    """
    digest = hashlib.sha256()
    for header in parts:
        digest.update(header.file_size.to_bytes(8, "little"))
        data = header.file_size - header.data_offset
        last = max(data - _SAMPLE_BYTES, 0)
        samples = [(header.data_offset + start, min(_SAMPLE_BYTES, data)) for start in (0, last // 2, last)]
        spans = [(0, header.data_offset), *samples]
        with open_regular(header.path) as file:
            for start, size in spans:
                file.seek(start)
                while size and (part := file.read(size)):
                    digest.update(part)
                    size -= len(part)
    return digest.hexdigest()
