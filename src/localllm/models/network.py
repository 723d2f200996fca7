"""How to reach the network: endpoint, token, offline mode, patience; from options or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from localllm.errors import InvalidOptionError
from localllm.models.refs import without_query
from localllm.models.retry import RetryPolicy, Timing

HUB = "https://huggingface.co"
_TRUE = {"1", "true", "yes", "on"}


def _endpoint(value: str) -> str:
    """Return an endpoint without a slash at its end."""
    given: object = value
    text = given.strip().rstrip("/") if isinstance(given, str) else ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
        parts = urlsplit("")
    if not good or parts.query or parts.fragment or not text.isprintable():
        raise InvalidOptionError(f"endpoint must be an address such as {HUB}; got {without_query(repr(given))[:120]}")
    if parts.username is not None or parts.password is not None:
        raise InvalidOptionError("endpoint must not hold a user name or password; pass a token instead")
    return text


def _token(value: str | None) -> str | None:
    """Return a token without white space around it; None if there is none."""
    given: object = value
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidOptionError(f"token must be a str or None, not {type(given).__name__}")
    text = given.strip()
    if not text.isascii() or not text.isprintable():
        raise InvalidOptionError("token holds characters that no header can carry; is it the right variable?")
    return text or None


def _positive(instance: object, attribute: object, value: float) -> None:
    if not value > 0:
        raise InvalidOptionError(f"{getattr(attribute, 'name', '')} must be more than 0; got {value!r:.80}")


@frozen(kw_only=True)
class Network:
    """How to reach the network.

    Args:
        endpoint: The Hub, or a mirror of it.
        token: Sent to the endpoint's host and to no other; never shown.
        offline: Refuse to use the network.
        proxy: A proxy's address; None takes those of the environment (`HTTPS_PROXY`, `NO_PROXY` and so on).
        connect_s: Seconds until a connection must stand.
        stall_s: Seconds without a byte after which a connection counts as broken.
        retry: How failures are met.
        timing: Clock and waiting.
    """

    endpoint: str = field(default=HUB, converter=_endpoint)
    token: str | None = field(default=None, converter=_token, repr=False)
    offline: bool = False
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    connect_s: float = field(default=15.0, validator=_positive)
    stall_s: float = field(default=30.0, validator=_positive)
    retry: RetryPolicy = RetryPolicy()
    timing: Timing = field(default=Timing(), repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Network:
        """Return what `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and `LOCALLLM_OFFLINE` say."""
        network = cls(
            token=environment.get("HF_TOKEN"),
            offline=any(
                environment.get(name, "").strip().lower() in _TRUE for name in ("HF_HUB_OFFLINE", "LOCALLLM_OFFLINE")
            ),
        )
        endpoint = environment.get("HF_ENDPOINT", "").strip()
        return evolve(network, endpoint=endpoint) if endpoint else network
