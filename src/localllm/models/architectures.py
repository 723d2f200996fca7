"""What llama.cpp's graphs demand of certain architectures: facts of its `src/models`, as of llama-cpp-python 0.3.36.

An architecture that is in none of these sets is given the benefit of the doubt.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    """Return the words of `text`."""
    return frozenset(text.split())


EQUAL_HEADS = _names(
    "apertus arcee arctic baichuan bitnet bloom chameleon chatglm codeshell cogvlm cohere2 command-r dbrx deci "
    "deepseek dots1 dream ernie4_5 ernie4_5-moe exaone exaone4 falcon gemma gemma2 gemma3 glm4 gpt2 gptneox granite "
    "granitemoe grok grovemoe hunyuan-dense hunyuan-moe internlm2 jais jais2 llada llada-moe llama llama4 minicpm "
    "mistral3 mpt nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded phi2 phi3 phimoe plamo qwen qwen2 "
    "qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe refact rnd1 seed_oss smallthinker smollm3 stablelm "
    "starcoder starcoder2 xverse"
)
"""Keys and values have heads of the same length."""

FULL_ROPE = _names(
    "apertus arcee arctic baichuan chameleon codeshell cogvlm dbrx deci deepseek dots1 dream ernie4_5 ernie4_5-moe "
    "exaone exaone4 falcon granite granitemoe grok grovemoe hunyuan-moe internlm2 jais2 llada llada-moe llama llama4 "
    "minicpm mistral3 nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded plamo qwen2 qwen2moe qwen2vl qwen3 "
    "qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 xverse"
)
"""Rotary embeddings cover whole heads."""

PLAIN = _names(
    "arcee baichuan cohere2 command-r dream exaone exaone4 gemma gemma2 gemma3 granite internlm2 llada llama mistral3 "
    "olmo olmo2 orion phi2 phi3 qwen2 qwen3 seed_oss smollm3 stablelm starcoder2 xverse"
)
"""Plain transformers: the shapes of their tensors follow from a few hyperparameters."""

SECTIONED_ROPE = _names("paddleocr qwen2vl qwen35 qwen35moe qwen3vl qwen3vlmoe")
"""Rotary embeddings have sections, and one of the first three is not empty."""

EXPERTS = _names("bailingmoe2 glm4moe grovemoe lfm2moe llada-moe smallthinker")
"""There are experts."""

GATED_EXPERTS = _names(
    "bailingmoe2 bailingmoe3 deepseek32 dots1 dots3note exaone-moe kimi-k3 kimi-linear minimax-m2 minimax-m3 "
    "smallthinker"
)
"""The header says how experts are chosen."""

GROUPED_SSM = _names("falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe qwen35 qwen35moe qwen3next")
"""The state is divided among groups."""

AT_LEAST: dict[str, dict[str, int]] = {
    "ernie4_5-moe": {"interleave_moe_layer_step": 1},
    "grovemoe": {"experts_per_group": 1},
    "hrm_text": {"hrm.layers_per_stack": 1, "hrm.h_cycles": 1, "hrm.l_cycles": 1},
    "lfm2": {"shortconv.l_cache": 2},
    "lfm2moe": {"shortconv.l_cache": 2},
    "rwkv6": {"wkv.head_size": 1, "token_shift_count": 2},
    "rwkv6qwen2": {"wkv.head_size": 1},
    "rwkv7": {"wkv.head_size": 1, "token_shift_count": 2},
    "arwkv7": {"wkv.head_size": 1},
}
"""Keys that must be there, with the least value that is asserted or does not divide by zero."""
