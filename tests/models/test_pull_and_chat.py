"""examples/pull_and_chat.py against the Hub on loopback, with the real model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.models.hub_server import Cut, HubServer

ROOT = Path(__file__).parents[2]


def test_the_example_pulls_loads_and_chats(hub: HubServer, smollm2_path: Path, tmp_path: Path) -> None:
    """Over a connection that breaks; the second run fetches nothing."""
    hub.add("org/repo", {"SmolLM2-Q4_1.gguf": smollm2_path.read_bytes()})
    hub.faults.append(Cut(30_000_000))
    home = {"HOME": str(tmp_path), "LOCALLLM_HOME": str(tmp_path / "store"), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "examples/pull_and_chat.py", "hf:org/repo", "Name a color."]
    for run in (1, 2):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            env=os.environ | home | {"OMP_WAIT_POLICY": "passive"},
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{done.stderr}"
        assert "hf:org/repo/SmolLM2-Q4_1.gguf@" in done.stdout
        assert "done         [##############################] 100%" in done.stdout
        assert done.stdout.partition("> Name a color.\n")[2].strip()
        assert ("retrying" in done.stdout) == (run == 1)
    assert [seen.headers.get("range") for seen in hub.data_requests] == [None, "bytes=30000000-"]
