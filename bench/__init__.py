"""Benchmarks: localllm beside its peers, in one run, as medians and ratios. `make bench` runs them all."""
