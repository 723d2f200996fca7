"""A process of its own that pulls, for tests that kill it: `python -m tests.models.pulling HOME ENDPOINT REF`."""

from __future__ import annotations

import sys

from localllm.models.network import Network
from localllm.models.progress import PullProgress
from localllm.models.retry import RetryPolicy
from localllm.models.store import ModelStore


def main(home: str, endpoint: str, ref: str, max_file_bytes: int) -> None:
    """Pull `ref` into `home`, printing each new phase; files may grow to `max_file_bytes`, if that is not 0."""
    if max_file_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    phases = [""]

    def tell(progress: PullProgress) -> None:
        if progress.phase != phases[-1]:
            phases.append(progress.phase)
            print(progress.phase, flush=True)

    network = Network(endpoint=endpoint, retry=RetryPolicy(retries=0))
    store = ModelStore(home, network=network, environment={"HOME": home})
    try:
        print(store.pull(ref, on_progress=tell).path, flush=True)
    except OSError as exc:
        print(f"{type(exc).__name__}: {exc}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
