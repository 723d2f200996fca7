"""`localllm pull`, `list`, `inspect`, `verify` and `remove`: what is written, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.cli import main
from localllm.cli.bars import amount, pace
from localllm.models.progress import PullProgress
from tests.cli.screen import CTRL_C, screen
from tests.models.fetching import gguf_bytes
from tests.models.hub_server import COMMIT, Hold, HubServer, Status, hub_server

DATA = gguf_bytes(40_000)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback with one repository, and an environment that leads to it and to a store of the test's own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "OLLAMA_")):
            monkeypatch.delenv(name)
    with hub_server() as server:
        server.add("org/repo", {"m-Q4_K_M.gguf": DATA, "m-Q8_0.gguf": gguf_bytes(seed=1)})
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("LOCALLLM_HOME", str(tmp_path / "store"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `localllm` in this process; return exit code, stdout, stderr."""
    code = main(arguments)
    said = capfd.readouterr()
    return code, said.out, said.err


def test_pull_prints_the_path_alone(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """For `$(localllm pull ...)`; several at once in their order."""
    code, out, err = run(capfd, "pull", "hf:org/repo", "hf:org/repo:Q8_0")
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()] == ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    assert Path(out.splitlines()[0]).read_bytes() == DATA


def test_pull_tells_what_failed_and_goes_on(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """One line of error for each, exit code 1, the others are there."""
    code, out, err = run(capfd, "pull", "hf:org/nothing", "hf:org/repo")
    assert (code, len(out.splitlines())) == (1, 1)
    assert err.startswith("error: hf:org/nothing@main: not found")
    code, out, err = run(capfd, "pull", "--json", "hf:org/nothing", "hf:org/repo")
    failed, there = json.loads(out)
    assert failed["error"]["type"] == "ModelNotFoundError"
    assert (there["asked"], there["commit"], there["size_bytes"]) == ("hf:org/repo", COMMIT, len(DATA))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("pull", "hf:x"), 2, "is no model reference"),
        (("pull", "--sha256", "abc", "hf:org/repo"), 2, "64 hexadecimal digits"),
        (("pull", "--sha256", "0" * 64, "hf:org/repo", "hf:org/repo:Q8_0"), 2, "--sha256 is of one model"),
        (("pull", "--sha256", "0" * 64, "hf:org/repo"), 1, "expected 000"),
        (("pull", "--endpoint", "nonsense", "hf:org/repo"), 2, "endpoint must be an address"),
        (("inspect", "hf:org/repo"), 1, "`localllm pull hf:org/repo`"),
        (("verify", "hf:org/repo"), 1, "is not on this machine"),
        (("remove", "hf:org/repo"), 1, "is not on this machine"),
        (("remove", "smollm2-135m"), 1, "belongs to a Python package"),
        (("remove",), 2, "nothing to delete"),
        (("chat", "-m", "hf:org/repo", "Hello"), 1, "`localllm pull hf:org/repo`"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    hub: HubServer,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """1 for what failed, 2 for what was used wrongly."""
    monkeypatch.setattr(sys, "stdin", None)
    found, out, err = run(capfd, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_list_is_plain_when_piped(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """A line for each model, its values between tabs; JSON with everything."""
    run(capfd, "pull", "hf:org/repo")
    _, out, _ = run(capfd, "list")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0][:3] == [f"hf:org/repo/m-Q4_K_M.gguf@{COMMIT}", str(len(DATA)), "store"]
    assert lines[1][0] == "smollm2-135m"
    _, out, _ = run(capfd, "list", "--json", "--all")
    models = json.loads(out)
    assert models[0]["files"][0]["path"] == lines[0][3]


def test_list_is_a_table_on_a_terminal(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Commits are shortened, and what it shows can be given to other commands."""
    run(capfd, "pull", "hf:org/repo")
    with screen("list") as terminal:
        assert terminal.end() == 0
    short = f"hf:org/repo/m-Q4_K_M.gguf@{COMMIT[:8]}"
    assert short in terminal.text
    assert "39.2 KiB" in terminal.text
    assert run(capfd, "inspect", short)[0] == 0


def test_inspect_tells_what_the_header_says(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """As rows, and as JSON with the whole template."""
    code, out, _ = run(capfd, "inspect", "smollm2-135m")
    assert code == 0
    assert "quantization   Q4_1\n" in out
    assert "context        8,192 tokens\n" in out
    _, out, _ = run(capfd, "inspect", "--json", "smollm2-135m")
    assert json.loads(out)["chat_template"].startswith("{%")
    code, out, _ = run(capfd, "inspect", "--json", "nothing")
    assert (code, json.loads(out)["error"]["type"]) == (1, "ModelNotFoundError")


def test_inspect_loads_nothing_heavy() -> None:
    """A look at a header needs neither native code nor a network; so it is a matter of a quarter of a second."""
    code = (
        "import sys\n"
        "from localllm.cli import main\n"
        "assert main(['inspect', 'smollm2-135m']) == 0\n"
        "assert not {'asyncio', 'cattrs', 'httpx', 'llama_cpp', 'llguidance', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=15)


def test_verify_finds_damage(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the models named, or of all of the store; exit code 1."""
    path = Path(run(capfd, "pull", "hf:org/repo")[1].strip())
    assert run(capfd, "verify")[:2] == (0, f"{path}: whole\n")
    path.write_bytes(DATA[:-1] + b"x")
    code, out, _ = run(capfd, "verify", "hf:org/repo")
    assert code == 1
    assert "should have" in out
    code, out, _ = run(capfd, "verify", "--json")
    assert json.loads(out)[0]["ok"] is False


def test_verify_tells_that_there_is_nothing(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Silence would look like a good end; JSON stays JSON."""
    code, out, err = run(capfd, "verify")
    assert (code, out) == (0, "")
    assert "nothing has been pulled into " in err
    assert run(capfd, "verify", "--json")[1] == "[]\n"


def test_verify_names_a_file_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where what is wrong with it begins with its path."""
    path = tmp_path / "empty.gguf"
    path.touch()
    code, out, _ = run(capfd, "verify", str(path))
    assert code == 1
    assert out.count(str(path)) == 1


def test_remove_deletes(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """In a script without a question; unfinished downloads when told to."""
    path = Path(run(capfd, "pull", "hf:org/repo")[1].strip())
    assert run(capfd, "remove", "hf:org/repo") == (0, f"deleted {path}\n", "")
    assert not path.exists()
    assert run(capfd, "remove", "--partial") == (0, "deleted unfinished downloads: 0 B\n", "")


def test_remove_asks_a_person(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Anything but yes keeps it."""
    path = Path(run(capfd, "pull", "hf:org/repo")[1].strip())
    for answer, code in (("\n", 1), ("y\n", 0)):
        with screen("remove", "hf:org/repo") as terminal:
            terminal.expect("? [y/N] ")
            assert path.exists()
            terminal.type(answer)
            assert terminal.end() == code
        assert path.exists() == (code == 1)


def test_pull_shows_a_bar_and_ctrl_c_ends_it(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """With amount; what had come is gone on with by the next pull."""
    hub.repos["org/repo"].files["m-Q4_K_M.gguf"] = data = gguf_bytes(3_000_000)
    hold = Hold(2_000_000)
    hub.faults.append(hold)
    with screen("pull", "hf:org/repo") as terminal:
        assert hold.reached.wait(15)
        terminal.expect("B of 2.9 MiB")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    hold.go.set()
    path = Path(run(capfd, "pull", "hf:org/repo")[1].strip())
    assert path.read_bytes() == data
    assert hub.data_requests[-1].headers["range"] != "bytes=0-"


def test_a_pause_is_told(hub: HubServer) -> None:
    """Why, and for how long."""
    hub.faults.append(Status(503, {"Retry-After": "1"}))
    with screen("pull", "hf:org/repo") as terminal:
        terminal.expect("retrying: ")
        assert terminal.end() == 0


def test_chat_offers_to_fetch_first(hub: HubServer) -> None:
    """At a terminal; without a yes, the error says what to run."""
    with screen("chat", "-m", "hf:org/repo", "Hello") as terminal:
        terminal.expect("hf:org/repo is not on this machine. Fetch it into ")
        terminal.type("n\n")
        terminal.expect("localllm pull hf:org/repo")
        assert terminal.end() == 1
    assert hub.data_requests == []
    with screen("chat", "-m", "hf:org/repo", "Hello") as terminal:
        terminal.expect("[Y/n] ")
        terminal.type("\n")
        terminal.expect("error: ")  # it is fetched, and is no model to chat with
        assert terminal.end() == 1
    assert len(hub.data_requests) == 1


def test_amount_and_pace_are_readable() -> None:
    """Before anything is known, with a total and without, with hours left, while it waits."""

    def progress(**more: object) -> PullProgress:
        return PullProgress(**{"ref": "x", "phase": "downloading", **more})  # type: ignore[arg-type]

    assert amount(progress()) == ""
    assert amount(progress(done_bytes=1024)) == "1.0 KiB"
    assert amount(progress(done_bytes=1024, total_bytes=2**30)) == "1.0 KiB of 1.0 GiB"
    assert pace(progress()) == "downloading"
    assert pace(progress(rate_bytes_per_s=2e6)) == "1.9 MiB/s"
    assert pace(progress(rate_bytes_per_s=2e6, time_left_s=83.2)) == "1.9 MiB/s, 1:23 left"
    assert pace(progress(rate_bytes_per_s=2e6, time_left_s=3683)) == "1.9 MiB/s, 1:01:23 left"
    assert pace(progress(phase="retrying", detail="cut")) == "retrying: cut"


def test_chat_fetches_without_asking_if_told_so(hub: HubServer) -> None:
    """In a script, too: the model is there afterwards, whatever becomes of the chat."""
    done = subprocess.run(
        [sys.executable, "-m", "localllm.cli", "chat", "--yes", "-m", "hf:org/repo", "Hello"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1  # it is no model, only the beginning of one
    assert "is not on this machine" not in done.stderr
    assert main(("verify", "hf:org/repo")) == 0


def test_chat_does_not_fetch_what_nobody_was_asked_about(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    """In a script the error says what to do; with --json, as an object."""
    command = [sys.executable, "-m", "localllm.cli", "chat", "-m", "hf:org/repo"]
    for options in ((), ("--json",)):
        done = subprocess.run([*command, *options], input="Hello", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "nobody can be asked whether to fetch it; say --yes, or fetch it first" in done.stderr
        if options:
            assert json.loads(done.stdout)["error"]["type"] == "ModelNotFoundError"
    assert main(("verify", "hf:org/repo")) == 1
    assert "is not on this machine" in capfd.readouterr().err
