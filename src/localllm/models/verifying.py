"""Comparing a model's files with their checksums, or at least with their headers."""

from __future__ import annotations

from localllm.errors import DownloadCancelledError, InvalidModelFileError
from localllm.models.cancel import Cancellation
from localllm.models.gguf import read_header
from localllm.models.progress import Meter
from localllm.models.stored import FileCheck, StoredFile, StoredModel, Verification


def verify_model(model: StoredModel, meter: Meter, cancel: Cancellation) -> Verification:
    """Read all files of `model` and say what is wrong with them.

    Args:
        model: The model.
        meter: Told how far it is.
        cancel: Ends it.

    Raises:
        DownloadCancelledError: It was cancelled.
    """
    checks, before = [], 0
    for file in model.files:
        meter.start_file(file.path.name, before, model.size_bytes)
        checks.append(_check(file, meter, cancel))
        before += file.size_bytes
    meter.start_file("", before, model.size_bytes)
    meter.enter("done")
    return Verification(model=model, files=tuple(checks))


def _check(file: StoredFile, meter: Meter, cancel: Cancellation) -> FileCheck:
    """Return what is wrong with one file."""
    from localllm.models.hashing import hash_file  # not at the top: whoever only looks needs no threads

    def report(done_bytes: int) -> None:
        meter.at(done_bytes)
        cancel.check()

    meter.enter("checking")
    try:
        size = file.path.stat().st_size
        digest = hash_file(file.path, report)
    except DownloadCancelledError:
        raise
    except OSError as exc:
        return FileCheck(path=file.path, problem=f"cannot be read: {exc.strerror or exc}", expected=file.sha256)
    problem = ""
    if size != file.size_bytes:
        problem = f"has {size} bytes, should have {file.size_bytes}"
    elif file.sha256 is not None and digest != file.sha256:
        problem = f"has the SHA-256 {digest}, should have {file.sha256}"
    elif file.sha256 is None:
        try:
            read_header(file.path)
        except InvalidModelFileError as exc:
            problem = str(exc)
    return FileCheck(path=file.path, problem=problem, sha256=digest, expected=file.sha256)
