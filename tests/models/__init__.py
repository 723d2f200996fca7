"""Tests of model files: the GGUF header, what native code trusts, references."""
