"""A child process that loads and runs models with llama.cpp, so that its parent sees which of them kill it.

    python native_child.py REPACK < paths

REPACK is 1 where weights may be repacked for the processor, else 0. For each path it writes the path's number before it
begins with it, then loads the model, reads and writes text, and decodes some tokens, the special ones among them. What
llama.cpp answers does not matter; that it answers does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

os.environ["GGML_NO_BACKTRACE"] = "1"  # else an assert starts a debugger

from llama_cpp import llama_cpp as lib

TEXTS = (b"hello world\n", "Üñî 😀 ▁ the\t\x01".encode(), b"<|im_start|>user\nhi<|im_end|>\n<s></s>", b"\xff\xfe\x80")
MEMORY_BYTES = 6 << 30


def drop(_level: int, _text: bytes, _data: object) -> None:
    """Drop a native log line."""


def tokenize(vocab: object, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
    """Return the tokens of `text`."""
    room = len(text) + 16
    tokens = (ctypes.c_int32 * room)()
    count = lib.llama_tokenize(vocab, text, len(text), tokens, room, add_special, parse_special)
    return list(tokens[: max(count, 0)])


def read_and_write(vocab: object, count: int) -> list[int]:
    """Use the vocabulary every way there is; return some tokens."""
    tokens: list[int] = []
    for text in TEXTS:
        for add_special in (False, True):
            for parse_special in (False, True):
                tokens = tokenize(vocab, text, add_special, parse_special) or tokens
    piece = ctypes.create_string_buffer(64)
    for token in range(count):
        lib.llama_vocab_get_text(vocab, token)
        lib.llama_vocab_get_score(vocab, token)
        lib.llama_vocab_get_attr(vocab, token)
        lib.llama_vocab_is_eog(vocab, token)
        lib.llama_token_to_piece(vocab, token, piece, 64, 0, True)
    usable = [token for token in tokens if 0 <= token < count]
    array = (ctypes.c_int32 * max(len(usable), 1))(*usable)
    lib.llama_detokenize(vocab, array, len(usable), piece, 64, False, True)
    for special in ("bos", "eos", "eot", "sep", "nl", "pad", "mask", "fim_pre", "fim_suf", "fim_mid"):
        token = getattr(lib, f"llama_vocab_{special}")(vocab)
        if 0 <= token < count:
            usable.append(token)
    return [*usable[-20:], 0, count - 1]


def run(path: str, flash_attention: bool, repack: bool) -> str:
    """Load the model at `path` and decode with it; return how far it got."""
    params = lib.llama_model_default_params()
    params.use_extra_bufts = repack
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        return "not loaded"
    vocab = lib.llama_model_get_vocab(model)
    count = lib.llama_vocab_n_tokens(vocab)
    lib.llama_model_chat_template(model, None)
    lib.llama_model_n_ctx_train(model)
    tokens = read_and_write(vocab, count)
    context_params = lib.llama_context_default_params()
    context_params.n_ctx, context_params.n_batch, context_params.n_ubatch, context_params.n_seq_max = 64, 32, 32, 2
    context_params.n_threads = context_params.n_threads_batch = 1
    context_params.kv_unified = True
    context_params.flash_attn_type = int(flash_attention)
    context = lib.llama_init_from_model(model, context_params)
    if not context:
        lib.llama_model_free(model)
        return "no context"
    outcome = decode(context, tokens)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return outcome


def decode(context: object, tokens: list[int]) -> str:
    """Decode `tokens`, then three more by greedy choice, and move the cache about."""
    array = (ctypes.c_int32 * len(tokens))(*tokens)
    if lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) != 0:
        return "not decoded"
    sampler = lib.llama_sampler_init_greedy()
    for _ in range(3):
        token = ctypes.c_int32(lib.llama_sampler_sample(sampler, context, -1))
        if lib.llama_decode(context, lib.llama_batch_get_one(ctypes.pointer(token), 1)) != 0:
            break
    lib.llama_sampler_free(sampler)
    memory = lib.llama_get_memory(context)
    lib.llama_memory_seq_cp(memory, 0, 1, 0, -1)
    size = lib.llama_state_seq_get_size(context, 1)
    state = (ctypes.c_uint8 * size)()
    lib.llama_state_seq_get_data(context, state, size, 1)
    lib.llama_memory_seq_rm(memory, 0, 2, -1)
    lib.llama_state_seq_set_data(context, state, size, 1)
    lib.llama_memory_clear(memory, True)
    return "decoded"


def main() -> None:
    """Run the models whose paths come in, one a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = lib.llama_log_callback(drop)  # kept: native code calls it until the end
    lib.llama_log_set(silence, None)
    for number, line in enumerate(sys.stdin.read().splitlines()):
        print(number, flush=True)
        print(run(line, flash_attention=number % 2 == 0, repack=sys.argv[1] == "1"), flush=True)


if __name__ == "__main__":
    main()
