"""Which file of a repository is meant: models in parts are one, quantizations are told apart by the file's name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from attrs import frozen

from localllm.errors import ModelNotFoundError

PREFERRED = (
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_K_L", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL", "Q5_K_S", "Q5_0", "Q5_1",
    "Q6_K", "Q8_0", "Q3_K_M", "Q3_K_L", "Q3_K_S", "MXFP4", "BF16", "F16", "F32",
)  # fmt: skip
"""What is taken when nobody says: the first of these that a repository has. Four bits with K-means are the usual
balance of size and quality (Ollama and llama.cpp take Q4_K_M, too); then what is near to it."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[1-9](?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4)|BF16|F(?:P)?16|F(?:P)?32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"(?<![a-z])(mmproj|imatrix)(?![a-z])", re.IGNORECASE)  # files beside a model that are none
_MAX_LISTED = 12


@frozen
class NamedModel:
    """A model among the files of a repository.

    Args:
        names: Its files in their order; more than one for a model in parts.
        quant: Its quantization as the name has it, in upper case; empty if the name has none.
    """

    names: tuple[str, ...]
    quant: str


def models_among(names: Iterable[str]) -> tuple[NamedModel, ...]:
    """Return the models that files of these names are; what is no model, or lacks parts, is left out."""
    single: dict[str, tuple[str, ...]] = {}
    parts: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for name in sorted(names):
        match = _PART.fullmatch(name)
        if match is not None:
            parts[match["stem"], int(match["count"])][int(match["number"])] = name
        elif name.lower().endswith(".gguf"):
            single[name] = (name,)
    for (stem, count), numbers in parts.items():
        if sorted(numbers) == list(range(1, count + 1)):
            single[stem] = tuple(numbers[number] for number in sorted(numbers))
    return tuple(
        NamedModel(files, quant_in(files[0]))
        for _, files in sorted(single.items())
        if not _ASIDE.search(files[0].rpartition("/")[2])
    )


def quant_in(name: str) -> str:
    """Return the quantization that a file's name, or else its folder, speaks of; empty if there is none."""
    folder, _, file = name.rpartition("/")
    found = _QUANT.findall(file) or _QUANT.findall(folder)
    return _canonical(found[-1]) if found else ""


def _canonical(quant: str) -> str:
    name = quant.upper()
    return {"FP16": "F16", "FP32": "F32"}.get(name, name)


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of all files of the model that `name` belongs to, from the name alone."""
    match = _PART.fullmatch(name)
    if match is None:
        return (name,)
    count = int(match["count"])
    digits = f"{count:05d}"
    return tuple(f"{match['stem']}-{number:05d}-of-{digits}{name[-5:]}" for number in range(1, count + 1))


def choose(names: Sequence[str], where: str, *, quant: str | None = None, file: str | None = None) -> tuple[str, ...]:
    """Return the files of the one model that is meant.

    Args:
        names: All files there are.
        where: What they are files of, for messages.
        quant: The quantization asked for.
        file: The file asked for: of a model in parts any of them.

    Raises:
        ModelNotFoundError: There is no such model, or there are several; the message lists what there is.
    """
    if file is not None:
        return _by_file(names, where, file)
    models = models_among(names)
    if not models:
        raise ModelNotFoundError(f"{where} has no .gguf model; look for a repository whose name ends with GGUF")
    if quant is not None:
        return _only(_by_quant(models, where, quant), where)
    for wanted in PREFERRED:
        found = [model for model in models if model.quant == wanted]
        if found:
            return _only(found, where)
    return _only(list(models), where)


def _by_file(names: Sequence[str], where: str, file: str) -> tuple[str, ...]:
    wanted = part_names(file)
    missing = [name for name in wanted if name not in names]
    if not missing:
        return wanted
    if file in names:
        raise ModelNotFoundError(f"{where} lacks {missing[0]}, a part of the model that {file} belongs to")
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    near = get_close_matches(file, ggufs, 3, 0.5) or ggufs
    raise ModelNotFoundError(f"{where} has no file {file!r:.200}{_list('; is it', near)}")


def _by_quant(models: Sequence[NamedModel], where: str, quant: str) -> list[NamedModel]:
    wanted = _canonical(quant)
    for name in (wanted, f"UD-{wanted}"):  # UD: a publisher's mark for its own mixtures of the same quantization
        found = [model for model in models if model.quant == name]
        if found:
            return found
    quants = sorted({model.quant for model in models} - {""})
    near = get_close_matches(wanted, quants, 3)
    hint = f"; is it {' or '.join(near)}?" if near else ""
    raise ModelNotFoundError(f"{where} has no quantization {quant!r:.40}{hint}{_list(' It has', quants)}")


def _only(found: Sequence[NamedModel], where: str) -> tuple[str, ...]:
    if len(found) == 1:
        return found[0].names
    shallow = [model for model in found if "/" not in model.names[0]]
    if len(shallow) == 1:
        return shallow[0].names
    files = [model.names[0] for model in found]
    raise ModelNotFoundError(f"{where} has several models that fit; name the file{_list(':', files)}")


def _list(before: str, names: Sequence[str]) -> str:
    """Return `before` and the first of `names`; nothing if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{before} {', '.join(names[:_MAX_LISTED])}{more}"
