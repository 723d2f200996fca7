"""What native code trusts in a header's vocabulary: sizes, ids, and the tokens that its tokenizers cannot do without.

Each rule stands for a place in llama.cpp's `llama-vocab.cpp` that aborts, throws where nobody catches (in
`llama_tokenize`), or never returns. docs/gguf.md lists them.
"""

from __future__ import annotations

from localllm.errors import InvalidModelFileError
from localllm.models.charsmap import check_charsmap
from localllm.models.gguf import GGUFHeader, ValueType
from localllm.models.keys import Keys

TOKENIZERS = ("llama", "gpt2", "gemma4", "bert", "t5", "rwkv", "plamo2", "hybriddna", "whitespace", "test")
"""The tokenizers that llama.cpp knows, as `tokenizer.ggml.model` names them."""

NO_VOCABULARY = ("no_vocab", "none")
"""What `tokenizer.ggml.model` says in a file without a vocabulary."""

MAX_TOKEN_BYTES = 1 << 13
"""Tries recurse once for each byte of a token, and real tokens have at most some hundred bytes."""

MAX_TEMPLATE_CHARACTERS = 1 << 20

_MAX_SUFFIX_BYTES = 1 << 28  # plamo2 keeps every suffix of every token
_SPECIAL_TOKENS = (
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "seperator",  # as the format spells it
    "padding",
    "cls",
    "mask",
    "fim_pre",
    "fim_suf",
    "fim_mid",
    "fim_pad",
    "fim_rep",
    "fim_sep",
    "prefix",
    "suffix",
    "middle",
)
_MERGING = ("gpt2", "gemma4", "hybriddna", "whitespace")
# Which ids stand for <s>, </s> and the separator when the header does not say; None: there is no such token.
_DEFAULT_BOS = {"llama": 1, "bert": 101, "gpt2": 11, "hybriddna": 11, "whitespace": 11, "plamo2": 1}
_DEFAULT_EOS = {"llama": 2, "gpt2": 11, "hybriddna": 11, "whitespace": 11, "t5": 1, "plamo2": 2}
_DEFAULT_SEP = {"bert": 102}
_WITHOUT_BOS = ("chatglm-bpe", "glm4", "glm5")
_ALWAYS_BOS = ("gemma4", "granite-embed-multi-311m")
_USUALLY_BOS = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
    "chameleon",
)


def has_vocabulary(header: GGUFHeader) -> bool:
    """Say whether the file holds a vocabulary: without one, a model can neither read nor write text."""
    tokenizer = header.text("tokenizer.ggml.model")
    return tokenizer is not None and tokenizer not in NO_VOCABULARY


def require_vocabulary(header: GGUFHeader) -> None:
    """Refuse a file without a vocabulary.

    Raises:
        InvalidModelFileError: There is none.
    """
    if not has_vocabulary(header):
        found = header.text("tokenizer.ggml.model")
        raise InvalidModelFileError(
            f"{header.path} has no vocabulary (tokenizer.ggml.model is {'missing' if found is None else repr(found)}), "
            "so it cannot read or write text; convert the model together with its tokenizer"
        )


def check_vocabulary(header: GGUFHeader) -> int:
    """Refuse a vocabulary that native code could not survive; return the count of tokens, 0 if there is none.

    Raises:
        InvalidModelFileError: Something in it is wrong; the message says which key, value and what is allowed.
    """
    keys = Keys(header, "tokenizer.ggml.")
    _check_templates(header)
    tokenizer = keys.text("model")
    if tokenizer is None or tokenizer in NO_VOCABULARY:
        return 0
    if tokenizer not in TOKENIZERS:
        raise keys.refuse("model", f"the tokenizer {tokenizer!r:.80} is unknown; allowed: {', '.join(TOKENIZERS)}")
    tokens = _tokens(keys)
    count = len(tokens)
    _check_lengths(keys, count)
    _check_settings(keys, count)
    _check_ends(keys, tokenizer, count)
    if tokenizer in _MERGING:
        _check_merges(keys)
    elif tokenizer == "llama":
        _check_bytes(keys, tokens)
    elif tokenizer == "rwkv":
        _check_first_bytes(keys, tokens)
    elif tokenizer == "plamo2" and sum(len(token) ** 2 for token in tokens) > _MAX_SUFFIX_BYTES:
        raise keys.refuse("tokens", f"their suffixes take more than {_MAX_SUFFIX_BYTES} bytes; no real vocabulary's do")
    elif tokenizer == "t5":
        check_charsmap(keys)
    return count


def _check_templates(header: GGUFHeader) -> None:
    """Refuse chat templates that are no text, or more of it than any real one is."""
    keys = Keys(header)
    for key in header.metadata:
        if key == "tokenizer.chat_template" or key.startswith("tokenizer.chat_template."):
            text = keys.text(key) or ""
            if len(text) > MAX_TEMPLATE_CHARACTERS:
                raise keys.refuse(key, f"{len(text)} characters; allowed: up to {MAX_TEMPLATE_CHARACTERS}")


def _tokens(keys: Keys) -> list[bytes]:
    """Return the tokens as native code sees them: cut at a NUL, the empty ones renamed; no two may be the same."""
    array = keys.array("tokens", ValueType.STRING)
    if array is None or not array.count:
        raise keys.refuse("tokens", "missing or empty; a vocabulary has at least one token")
    tokens = array.strings()
    longest = max(map(len, tokens))
    if longest > MAX_TOKEN_BYTES:
        index = next(index for index, token in enumerate(tokens) if len(token) == longest)
        raise keys.refuse("tokens", f"token {index} has {longest} bytes; allowed: up to {MAX_TOKEN_BYTES}")
    if b"" in tokens or 0 in b"".join(tokens):
        tokens = [token.split(b"\0", 1)[0] for token in tokens]
        tokens = [token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens)]
    if len(set(tokens)) < len(tokens):
        seen: dict[bytes, int] = {}
        for index, token in enumerate(tokens):
            if seen.setdefault(token, index) != index:
                raise keys.refuse("tokens", f"tokens {seen[token]} and {index} are both {token!r:.80}")
    return tokens


def _check_lengths(keys: Keys, count: int) -> None:
    """Refuse scores and types that are not one for each token."""
    scores = keys.array("scores", ValueType.FLOAT32, ValueType.INT32)
    types = keys.array("token_type", ValueType.INT32)
    for key, array in (("scores", scores), ("token_type", types)):
        if array is not None and array.count != count:
            raise keys.refuse(key, f"{array.count} items; allowed: one for each of the {count} tokens")
    if types is not None and keys.text("model") == "bert" and 6 in types.numbers():
        raise keys.refuse("token_type", "a byte token (6), which this tokenizer cannot have")


def _check_settings(keys: Keys, count: int) -> None:
    """Refuse token ids beyond the vocabulary, and settings of a wrong type."""
    for name in _SPECIAL_TOKENS:
        keys.u32(f"{name}_token_id", 0, count - 1)
    for name in ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"):
        keys.flag(name)
    keys.text("pre")
    keys.u32("token_type_count", 0, 1 << 20)
    keys.array("suppress_tokens", ValueType.INT32)


def _check_ends(keys: Keys, tokenizer: str, count: int) -> None:
    """Refuse a vocabulary that is told to add a token to each text and does not have it: native code would abort."""
    pre = "gemma4" if tokenizer == "gemma4" else keys.text("pre") or ""
    defaults = {
        "bos": None if pre in _WITHOUT_BOS else _DEFAULT_BOS.get(tokenizer),
        "eos": _DEFAULT_EOS.get(tokenizer),
        "seperator": _DEFAULT_SEP.get(tokenizer),
    }
    add_bos = keys.flag("add_bos_token")
    add_eos = keys.flag("add_eos_token")
    merging = tokenizer in _MERGING
    if add_bos is None:
        add_bos = tokenizer == "llama" or (merging and pre in _USUALLY_BOS)
    if add_eos is None:
        add_eos = tokenizer == "t5"
    added = {
        "bos": add_bos or tokenizer == "bert" or (merging and pre in _ALWAYS_BOS),
        "eos": add_eos and tokenizer != "bert",
        "seperator": tokenizer == "bert",
    }
    for name, default in defaults.items():
        missing = default is None or default >= count
        if added[name] and missing and keys.u32(f"{name}_token_id") is None:
            raise keys.refuse(f"{name}_token_id", "missing, and this vocabulary adds that token to each text")


def _check_merges(keys: Keys) -> None:
    """Refuse merges that are not two parts with a space between them."""
    merges = keys.array("merges", ValueType.STRING)
    if merges is None:
        if keys.text("pre") != "kimi-k2":  # the one that has none
            raise keys.refuse("merges", "this key is missing, and this tokenizer needs it")
        return
    items = merges.strings()
    broken = [item for item in items if item.find(b" ", 1) < 0]
    if broken:
        index = items.index(broken[0])
        raise keys.refuse("merges", f"merge {index} is {broken[0]!r:.80}; allowed: two parts with a space between")


def _check_bytes(keys: Keys, tokens: list[bytes]) -> None:
    """Refuse a SentencePiece vocabulary without a token for each byte: an unknown character would end the process."""
    present = set(tokens)
    for byte in range(256):
        if b"<0x%02X>" % byte not in present and bytes([byte]) not in present:
            raise keys.refuse("tokens", f"there is no token for the byte 0x{byte:02X} (<0x{byte:02X}>)")


def _check_first_bytes(keys: Keys, tokens: list[bytes]) -> None:
    """Refuse an RWKV vocabulary whose longest-match search could match nothing: it would never end."""
    plain = [_unescape(token) for token in tokens]
    alone = {token for token in plain if len(token) == 1}
    for index, token in enumerate(plain):
        if token and token[:1] not in alone:
            raise keys.refuse("tokens", f"token {index} begins with the byte {token[:1]!r}, which is no token itself")


def _unescape(token: bytes) -> bytes:
    """Undo the escapes of RWKV's tokens: \\t, \\n, \\r, \\xHH, and any other character for itself."""
    out = bytearray()
    rest = iter(token)
    for byte in rest:
        if byte != ord("\\"):
            out.append(byte)
            continue
        following = next(rest, None)
        if following is None:
            break
        if following == ord("x"):
            digits = bytes((next(rest, ord("0")), next(rest, ord("0"))))
            try:
                out.append(int(digits, 16))
            except ValueError:  # no hexadecimal digits: native code makes some byte of them; any will do here
                out.append(0)
        else:
            out.append({ord("t"): 9, ord("n"): 10, ord("r"): 13}.get(following, following))
    return bytes(out)
