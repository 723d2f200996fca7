"""`localllm chat "question"`: what reaches stdout and stderr, and the exit code, in every way it can end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.cli import main
from localllm.cli.oneshot import join
from tests.cli import echo
from tests.cli.screen import CTRL_C, screen

ECHO = ("--backend", echo.PATH)


def chat(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `localllm chat` in this process; return exit code, stdout, stderr."""
    code = main(["chat", *arguments])
    said = capfd.readouterr()
    return code, said.out, said.err


@pytest.fixture(autouse=True)
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is piped in unless a test says so."""
    monkeypatch.setattr(sys, "stdin", None)


def test_the_reply_goes_to_stdout_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """A pipe receives the text and a line's end, and stderr nothing."""
    assert chat(capfd, *ECHO, "Hello") == (0, "1 Hello\n", "")


def test_words_need_no_quotes(capfd: pytest.CaptureFixture[str]) -> None:
    """Several arguments are one question."""
    assert chat(capfd, *ECHO, "Hello", "there") == (0, "1 Hello there\n", "")


def test_a_system_message_is_sent(capfd: pytest.CaptureFixture[str]) -> None:
    """--system comes before the question."""
    assert chat(capfd, *ECHO, "--system", "Be brief.", "Hello") == (0, "2 Hello (Be brief.)\n", "")


def test_a_cut_off_reply_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """--max-tokens ends the reply; the note about it does not mix with the text."""
    code, out, err = chat(capfd, *ECHO, "--max-tokens", "5", "forever")
    assert (code, out.split()) == (0, ["on"] * 3)  # the echo counts words and spaces
    assert err.startswith("note: the reply was cut off")


def test_thoughts_stay_out_of_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    """Only the text is the answer."""
    assert chat(capfd, *ECHO, "think") == (0, "so\n", "")


def test_escape_sequences_pass_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    """A program gets what the model wrote, byte for byte."""
    assert chat(capfd, *ECHO, "escape") == (0, "\x1b]0;owned\x07done\n", "")


def test_json_has_text_and_figures(capfd: pytest.CaptureFixture[str]) -> None:
    """One object on one line, with everything that a program could ask."""
    code, out, err = chat(capfd, *ECHO, "--json", "Hello")
    reply = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert (reply["text"], reply["finish_reason"]) == ("1 Hello", "stop")
    assert reply["usage"]["completion_tokens"] > 0
    assert reply["timings"]["first_token_s"] >= 0


def test_json_tells_failures_too(capfd: pytest.CaptureFixture[str]) -> None:
    """The error's class and message, the partial reply, and exit code 1."""
    code, out, err = chat(capfd, *ECHO, "--json", "fail")
    said = json.loads(out)
    assert (code, err) == (1, "error: the device was unplugged\n")
    assert said["error"] == {"type": "BackendError", "message": "the device was unplugged"}
    assert said["reply"]["message"]["content"] == "half a "


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("fail",), 1, "the device was unplugged"),
        (("-m", "missing", "Hello"), 1, "no model 'missing'"),
        (("-m", "broken", "Hello"), 1, "the file is damaged"),
        (("--temperature", "-1", "Hello"), 2, "temperature must be a number"),
        (("--max-tokens", "0", "Hello"), 2, "max_tokens must be an integer at least 1"),
        (("--seed", "-1", "Hello"), 2, "seed must be"),
        (("--ctx", "1", "Hello"), 2, "n_ctx must be"),
        (("--threads", "0", "Hello"), 2, "threads must be"),
        (("--ctx", "8", "one two three four five six seven"), 1, "; on the command line that is --ctx"),
        (("nul\0",), 2, "NUL"),
        (("\udcff",), 2, "lone surrogate"),
        ((), 2, "no question"),
        (("   ",), 2, "no question"),
        (("--json",), 2, "no question"),
    ],
)
def test_errors_are_one_line_and_a_code(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    """1 for what failed, 2 for what was asked wrongly; no traceback."""
    found, _, err = chat(capfd, *ECHO, *arguments)
    assert found == code
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_unknown_option_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    """As every Unix program does: exit code 2."""
    code, _, err = chat(capfd, "--temprature", "1", "Hello")
    assert code == 2
    assert "--temprature" in err


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """For a bug report."""
    code, _, err = chat(capfd, *ECHO, "--debug", "fail")
    assert code == 1
    assert "Traceback" in err


def test_the_version_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """`localllm --version` is the first thing a bug report needs."""
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("localllm 0.")


@given(st.text(), st.none() | st.text())
def test_what_is_piped_in_goes_first(question: str, piped: str | None) -> None:
    """Both are in the prompt, an empty line between; of nothing comes nothing."""
    prompt = join(question, piped)
    if question.strip():
        assert prompt.endswith(question)
    if piped is not None and piped.strip():
        assert prompt.startswith(piped.strip("\r\n"))
    assert bool(prompt) == bool(question.strip() or (piped or "").strip())


def process(*arguments: str) -> list[str]:
    """The command line of a real process."""
    return [sys.executable, "-m", "localllm.cli", "chat", *ECHO, *arguments]


@pytest.mark.parametrize(
    ("arguments", "piped", "out"),
    [
        (("Summarize.",), "A text.\n", "1 A text.\n\nSummarize.\n"),
        ((), "A question\n", "1 A question\n"),
        (("Hello",), "", "1 Hello\n"),
    ],
)
def test_a_pipe_is_read(arguments: tuple[str, ...], piped: str, out: str) -> None:
    """`cat file | localllm chat "..."` in a real process."""
    done = subprocess.run(process(*arguments), input=piped, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, "")


def test_a_reader_that_leaves_ends_it_in_silence() -> None:
    """`localllm chat ... | head -1`: no traceback, nothing at exit either, and the code that a shell gives SIGPIPE."""
    running = subprocess.Popen(
        process("lines"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"line 0\n"
    running.stdout.close()
    assert running.stderr is not None
    with running.stderr:
        assert running.stderr.read() == b""
    assert running.wait(20) == 141


def test_a_full_disk_is_one_line() -> None:
    """What cannot be written is told, once, and nothing more at exit."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            process("Hello"), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: input or output failed: ")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_the_reply_and_keeps_what_came() -> None:
    """On a real terminal, with a real SIGINT: the text stays, no traceback, exit code 130."""
    with screen("chat", *ECHO, "forever") as shown:
        shown.expect("on on on")
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert "Traceback" not in shown.text


def test_ctrl_c_ends_a_reply_that_nobody_sees_yet(tmp_path: Path) -> None:
    """With --json the partial reply is still told."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with screen("chat", *ECHO, "--json", f"announced {pipe}") as shown:
        assert pipe.read_text() == "begun"
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert '"finish_reason": "cancelled"' in shown.text


def test_ctrl_c_ends_loading() -> None:
    """A model that takes long to load is given up on the first Ctrl-C."""
    with screen("chat", *ECHO, "-m", "stuck", "Hello") as shown:
        shown.expect("loading")
        shown.type(CTRL_C)
        assert shown.end() == 130
    assert "Traceback" not in shown.text


def test_escape_sequences_do_not_reach_a_terminal() -> None:
    """What the model wrote to set the window's title is shown as text."""
    with screen("chat", *ECHO, "escape", NO_COLOR="1") as shown:
        assert shown.end() == 0
    assert "␛]0;owned␇done" in shown.text
    assert "\x1b]" not in shown.text


def test_thoughts_are_shown_to_a_person() -> None:
    """Dimmed, so that they are not taken for the answer."""
    with screen("chat", *ECHO, "think") as shown:
        assert shown.end() == 0
    assert "\x1b[2mhmm\x1b[0mso" in shown.text


def test_the_real_model_answers() -> None:
    """Everything from the command line to the native engine and back, greedy, with no word on stderr."""
    command = [sys.executable, "-m", "localllm", "chat", "--temperature", "0", "--max-tokens", "12"]
    done = subprocess.run(
        [*command, "What is the capital of France?"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"LOCALLLM_MODEL": "smollm2-135m", "OMP_WAIT_POLICY": "passive"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\w{3}", done.stdout)
    assert done.stderr in ("", "note: the reply was cut off: --max-tokens or the context window is used up\n")
