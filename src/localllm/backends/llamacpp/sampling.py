"""llama.cpp's sampler chain for a request's options, in the order of its `common/sampling.cpp`."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from types import ModuleType

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.library import library
from localllm.errors import InvalidOptionError
from localllm.options import RequestOptions

_MIROSTAT_WINDOW = 100  # tokens from which mirostat 1 estimates its surprise, as in llama.cpp


class ChainSampler:
    """One request's sampler chain.

    Args:
        model: The model whose tokens it chooses.
        options: The request's options.
        prompt: The prompt's tokens, of which penalties take note.

    Raises:
        InvalidOptionError: `logit_bias` names a token that the vocabulary doesn't have.
    """

    def __init__(self, model: NativeModel, options: RequestOptions, prompt: Sequence[int]) -> None:
        self._lib = lib = library()
        check_bias(options, model.n_vocab)
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._closed = False
        self.needs_possible: bool = _measures_entropy(options)
        """Whether it cannot do with impossible tokens among its candidates."""
        self.chain: ctypes.c_void_p = lib.llama_sampler_chain_init(params)
        samplers = _samplers(lib, model, options)
        self.greedy: bool = options.temperature == 0 and not options.mirostat and len(samplers) == 1
        """Whether it takes the likeliest token, whatever was said before."""
        for sampler in samplers:
            lib.llama_sampler_chain_add(self.chain, sampler)
        for token in _remembered(options, prompt):
            self.accept(token)

    def accept(self, token: int) -> None:
        """Take note of a token that was not sampled."""
        self._lib.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._lib.llama_sampler_free(self.chain)


def _measures_entropy(options: RequestOptions) -> bool:
    """Whether some sampler takes logarithms of probabilities, which are minus infinity for impossible tokens."""
    return options.typical_p < 1 or options.mirostat != 0 or options.dynatemp_range > 0 or options.top_n_sigma >= 0


def check_bias(options: RequestOptions, n_vocab: int) -> None:
    """Raise InvalidOptionError if `logit_bias` names a token that the vocabulary doesn't have."""
    for token, _ in options.logit_bias:
        if token >= n_vocab:
            raise InvalidOptionError(f"logit_bias names token {token}; the vocabulary ends at {n_vocab - 1}")


def _samplers(lib: ModuleType, model: NativeModel, options: RequestOptions) -> list[ctypes.c_void_p]:
    """Return the chain's members, first to last; those whose options turn them off are left out."""
    seed = random.SystemRandom().randrange(2**32 - 1) if options.seed is None else options.seed
    samplers = [*_bias(lib, model, options)]
    if options.mirostat:
        samplers += [*_penalties(lib, model, options), lib.llama_sampler_init_temp(options.temperature)]
        tau, eta = options.mirostat_tau, options.mirostat_eta
        if options.mirostat == 1:
            last = lib.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, _MIROSTAT_WINDOW)
        else:
            last = lib.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return [*samplers, last]
    samplers += _penalties(lib, model, options)
    if options.temperature == 0:
        return [*samplers, lib.llama_sampler_init_greedy()]
    samplers += _truncating(lib, options, seed)
    if options.dynatemp_range:
        temperature = lib.llama_sampler_init_temp_ext(
            options.temperature, options.dynatemp_range, options.dynatemp_exponent
        )
    else:
        temperature = lib.llama_sampler_init_temp(options.temperature)
    return [*samplers, temperature, lib.llama_sampler_init_dist(seed)]


def _bias(lib: ModuleType, model: NativeModel, options: RequestOptions) -> list[ctypes.c_void_p]:
    if not options.logit_bias:
        return []
    biases = (lib.llama_logit_bias * len(options.logit_bias))()
    for bias, (token, value) in zip(biases, options.logit_bias, strict=True):
        bias.token, bias.bias = token, value
    return [lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), biases)]


def _penalties(lib: ModuleType, model: NativeModel, options: RequestOptions) -> list[ctypes.c_void_p]:
    samplers = []
    if _has_penalties(options):
        last_n = _window(model, options.repeat_last_n)
        samplers.append(
            lib.llama_sampler_init_penalties(
                model.n_vocab, last_n, options.repeat_penalty, options.frequency_penalty, options.presence_penalty
            )
        )
    if _has_dry(options):
        breakers = (ctypes.c_char_p * len(options.dry_sequence_breakers))(
            *(text.encode() for text in options.dry_sequence_breakers)
        )
        samplers.append(
            lib.llama_sampler_init_dry(
                model.vocab,
                options.dry_multiplier,
                options.dry_base,
                options.dry_allowed_length,
                _window(model, options.dry_penalty_last_n),
                breakers,
                len(breakers),
            )
        )
    return samplers


def _truncating(lib: ModuleType, options: RequestOptions, seed: int) -> list[ctypes.c_void_p]:
    """Top-n-sigma, top-k, typical-p, top-p, min-p and XTC, those that are on."""
    keep = 1
    wanted: tuple[tuple[bool, Callable[[], ctypes.c_void_p]], ...] = (
        (options.top_n_sigma >= 0, lambda: lib.llama_sampler_init_top_n_sigma(options.top_n_sigma)),
        (options.top_k > 0, lambda: lib.llama_sampler_init_top_k(options.top_k)),
        (options.typical_p < 1, lambda: lib.llama_sampler_init_typical(options.typical_p, keep)),
        (options.top_p < 1, lambda: lib.llama_sampler_init_top_p(options.top_p, keep)),
        (options.min_p > 0, lambda: lib.llama_sampler_init_min_p(options.min_p, keep)),
        (
            options.xtc_probability > 0,
            lambda: lib.llama_sampler_init_xtc(options.xtc_probability, options.xtc_threshold, keep, seed),
        ),
    )
    return [make() for on, make in wanted if on]


def _has_penalties(options: RequestOptions) -> bool:
    on = options.repeat_penalty != 1 or options.frequency_penalty != 0 or options.presence_penalty != 0
    return on and options.repeat_last_n != 0


def _has_dry(options: RequestOptions) -> bool:
    return options.dry_multiplier > 0 and options.dry_penalty_last_n != 0


def _window(model: NativeModel, last_n: int) -> int:
    """Return how many tokens to look back; -1 is the whole context the model was trained with."""
    return model.n_ctx_train if last_n < 0 else last_n


def _remembered(options: RequestOptions, prompt: Sequence[int]) -> Sequence[int]:
    """Return the prompt tokens that some sampler looks back on."""
    windows = [options.repeat_last_n] if _has_penalties(options) else []
    windows += [options.dry_penalty_last_n] if _has_dry(options) else []
    if not windows:
        return ()
    return prompt if min(windows) < 0 else prompt[-max(windows) :]
