"""The checks of the conformance suite, by what they are about; see `localllm.testing.check_backend`."""
