"""The pytest plugin, in runs of pytest as a user has them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
INSTALLED = any(point.value == "localllm.testing.plugin" for point in entry_points(group="pytest11"))

PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

CONFTEST = """
import pytest
from localllm import FakeBackend

@pytest.fixture
def llm_backend():
    return FakeBackend({replies!r})
"""

SKY = """
from localllm import ChatSession
from localllm.testing import LLMCassette

def test_sky(llm_cassette: LLMCassette) -> None:
    chat = ChatSession(llm_cassette.load("tiny"), temperature=0)
    assert chat.send("Why is the sky blue?").text == {said!r}
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest with the plugin."""
    return pytester.runpytest(*_plugin(), "-p", "no:cacheprovider", *arguments)


def _plugin() -> tuple[str, ...]:
    return () if INSTALLED else ("-p", "localllm.testing.plugin")


def user_tests(
    pytester: pytest.Pytester, test: str = SKY, *, said: str = "Scattering.", replies: object = None
) -> None:
    """Write a user's test, and what its real model would say."""
    pytester.makeconftest(CONFTEST.format(replies=[said] if replies is None else replies))
    pytester.makepyfile(test_sky=test.format(said=said))


def cassette(pytester: pytest.Pytester, name: str = "test_sky/test_sky.json") -> Path:
    """Where a cassette is."""
    return pytester.path / "cassettes" / name


def test_the_package_announces_the_plugin() -> None:
    """So that its fixtures are there wherever localllm is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"localllm": "localllm.testing.plugin"}


def test_the_page_shows_tests_that_pass(pytester: pytest.Pytester) -> None:
    """Those with fixtures, recorded and played; `test_docs` has the others."""
    with_fixtures = [block for block in BLOCKS if not re.search(r"def test_\w+\(\)", block)]
    pytester.makeconftest(CONFTEST.format(replies=["It is Paris."]))
    pytester.makepyfile(test_page="\n\n".join(with_fixtures))
    run(pytester, "--llm-record=once").assert_outcomes(passed=len(with_fixtures))
    run(pytester).assert_outcomes(passed=len(with_fixtures))


def test_the_example_is_played(pytester: pytest.Pytester) -> None:
    """From the cassettes that are beside it, with no backend to fall back on."""
    for file in (ROOT / "examples").rglob("*test_with_cassette*"):
        target = pytester.path / file.relative_to(ROOT / "examples")
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
    run(pytester).assert_outcomes(passed=2)


def test_the_example_is_recorded_from_the_real_model(pytester: pytest.Pytester, smollm2_path: Path) -> None:
    """And says of it what it says when it is played."""
    shutil.copyfile(ROOT / "examples" / "test_with_cassette.py", pytester.path / "test_with_cassette.py")
    run(pytester, "--llm-record=all").assert_outcomes(passed=2)
    files = sorted((pytester.path / "cassettes" / "test_with_cassette").iterdir())
    assert len(files) == 2
    for file in files:
        assert str(smollm2_path.parent) not in file.read_text(encoding="utf-8")


def test_a_scripted_model_is_a_line(pytester: pytest.Pytester) -> None:
    """`fake_llm` makes models and backends, tells what they were asked, and closes them."""
    pytester.makepyfile(
        """
        import pytest
        from localllm import ChatSession, ClosedError, ContextOverflowError, ModelConfig, ModelManager
        from localllm.testing import FakeLLM

        kept = []

        def test_one(fake_llm: FakeLLM) -> None:
            model = fake_llm("Good morning!", ValueError("boom"))
            assert ChatSession(model).send("Hi").text == "Good morning!"
            with ModelManager(fake_llm.backend("Bye")) as models:
                assert ChatSession(models.load("x")).send("Ho").text == "Bye"
            assert [request.messages[-1].content for request in fake_llm.requests] == ["Hi", "Ho"]
            with pytest.raises(ContextOverflowError):
                ChatSession(fake_llm("Yes", config=ModelConfig(n_ctx=8))).send("word " * 9)
            kept.append(model)

        def test_other(fake_llm: FakeLLM) -> None:
            assert fake_llm.requests == ()
            with pytest.raises(ClosedError):
                kept[0].tokenize("Hi")
        """
    )
    run(pytester).assert_outcomes(passed=2)


def test_a_cassette_is_recorded_once_and_played_without_the_model(pytester: pytest.Pytester) -> None:
    """The file is beside the test; when it is played, the real backend is not even made."""
    user_tests(pytester)
    run(pytester, "--llm-record=once").assert_outcomes(passed=1)
    content = json.loads(cassette(pytester).read_text(encoding="utf-8"))
    assert content["models"][0]["requests"][0]["reply"] == [{"text": "Scattering."}]
    before = cassette(pytester).stat()
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef llm_backend():\n    raise OSError('no model here')\n")
    run(pytester).assert_outcomes(passed=1)
    run(pytester, "--llm-record=once").assert_outcomes(passed=1)
    assert cassette(pytester).stat().st_mtime_ns == before.st_mtime_ns


def test_nothing_is_recorded_unless_it_is_asked_for(pytester: pytest.Pytester) -> None:
    """The test fails, and says with which command it is recorded."""
    user_tests(pytester)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*CassetteError: there is no cassette *test_sky.json; to record it: "
            "pytest --llm-record=once test_sky.py::test_sky"
        ]
    )
    assert not cassette(pytester).exists()


def test_a_changed_prompt_fails_with_what_changed(pytester: pytest.Pytester) -> None:
    """And with the command that records the test anew."""
    user_tests(pytester)
    run(pytester, "--llm-record=once").assert_outcomes(passed=1)
    user_tests(pytester, SKY.replace("blue", "red"))
    for mode in ("none", "once"):
        result = run(pytester, f"--llm-record={mode}")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*was not recorded in the cassette *test_sky.json; to record it: pytest --llm-record=all *::test_sky",
                'E*-*"content": "Why is the sky blue?"*',
                'E*+*"content": "Why is the sky red?"*',
            ]
        )


def test_all_records_everything_anew_and_new_what_is_missing(pytester: pytest.Pytester) -> None:
    """`all` leaves nothing of the old file; `new` keeps it and adds to it."""
    two = SKY + '    assert chat.send("And at dusk?").text == "Sunset."\n'
    user_tests(pytester)
    run(pytester, "--llm-record=all").assert_outcomes(passed=1)
    user_tests(pytester, two, replies=["Sunset."])
    run(pytester, "--llm-record=new").assert_outcomes(passed=1)
    assert len(json.loads(cassette(pytester).read_text())["models"][0]["requests"]) == 2
    user_tests(pytester, said="Rayleigh.")
    result = run(pytester, "--llm-record=all")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["localllm: cassettes are recorded (--llm-record=all)"])
    text = cassette(pytester).read_text()
    assert "Rayleigh." in text
    assert "Scattering." not in text
    assert "Sunset." not in text


def test_each_test_has_a_file_of_its_own(pytester: pytest.Pytester) -> None:
    """Also those in classes, those with parameters, and names that no file can have."""
    pytester.makeconftest(CONFTEST.format(replies=["yes"]))
    pytester.makepyfile(
        test_names="""
        import pytest
        from localllm import ChatSession

        def ask(cassette):
            ChatSession(cassette.load("tiny")).send("Hi")

        class TestOne:
            def test_it(self, llm_cassette):
                ask(llm_cassette)

        class TestOther:
            def test_it(self, llm_cassette):
                ask(llm_cassette)

        @pytest.mark.parametrize("x", ["a", "a/b", "a b", "a\\\\b", "..", "é", "x" * 300, "x" * 301, "{mode}"])
        def test_many(x, llm_cassette):
            ask(llm_cassette)
        """
    )
    run(pytester, "--llm-record=once").assert_outcomes(passed=11)
    names = sorted(file.name for file in cassette(pytester, "test_names").iterdir())
    assert len({name.lower() for name in names}) == 11
    assert {"TestOne.test_it.json", "TestOther.test_it.json", "test_many[a].json"} < set(names)
    assert all(name.isascii() and len(name) <= 105 for name in names)
    run(pytester).assert_outcomes(passed=11)


def test_the_place_can_be_chosen(pytester: pytest.Pytester) -> None:
    """By overriding the fixture of the path."""
    user_tests(pytester)
    with (pytester.path / "conftest.py").open("a") as file:
        file.write("\n@pytest.fixture\ndef llm_cassette_path(request):\n    return request.path.parent / 'sky.json'\n")
    run(pytester, "--llm-record=once").assert_outcomes(passed=1)
    assert (pytester.path / "sky.json").exists()


def test_an_application_that_loads_its_models_itself_gets_the_backend(pytester: pytest.Pytester) -> None:
    """Also an asynchronous one; what was asked is there to be checked."""
    test = """
import asyncio
from localllm import AsyncChatSession, AsyncModelManager

def test_sky(llm_cassette):
    async def talk():
        async with AsyncModelManager(llm_cassette.backend) as models:
            return await AsyncChatSession(await models.load("tiny")).send("Hi")
    assert asyncio.run(talk()).text == {said!r}
    assert [request.messages[-1].content for request in llm_cassette.requests] == ["Hi"]
"""
    user_tests(pytester, test)
    run(pytester, "--llm-record=once").assert_outcomes(passed=1)
    run(pytester).assert_outcomes(passed=1)


def test_a_fixture_that_is_not_used_costs_nothing(pytester: pytest.Pytester) -> None:
    """Neither a module beyond the plugin itself, nor a warning, nor a line of output."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            loaded = {name for name in sys.modules if name.split(".")[0] == "localllm"}
            assert loaded <= {"localllm", "localllm._version", "localllm.testing", "localllm.testing.plugin"}
            assert not {"attrs", "attr", "httpx", "jinja2", "llama_cpp"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess(*_plugin(), "-W", "error", "-p", "no:hypothesispytest", "-p", "no:anyio")
    result.assert_outcomes(passed=1, warnings=0)
    assert "cassette" not in str(result.stdout)


def test_runs_beside_each_other_record_whole_files(pytester: pytest.Pytester) -> None:
    """As the workers of a parallel run do, even if two of them get the same test."""
    five = SKY.replace("def test_sky(", "import pytest\n\n@pytest.mark.parametrize('x', range(5))\ndef test_sky(x, ")
    user_tests(pytester, five)
    command = [sys.executable, "-m", "pytest", *_plugin(), "-q", "-p", "no:cacheprovider", "--llm-record=all"]
    runs = [
        subprocess.Popen([*command, f"--deselect=test_sky.py::test_sky[{left}]"], cwd=pytester.path, env=os.environ)
        for left in (0, 4)
    ]
    assert [one.wait(60) for one in runs] == [0, 0]
    assert sorted(file.name for file in cassette(pytester, "test_sky").iterdir()) == [
        f"test_sky[{x}].json" for x in range(5)
    ]
    run(pytester).assert_outcomes(passed=5)


def test_a_mode_that_is_none_is_refused(pytester: pytest.Pytester) -> None:
    """With those that there are."""
    result = run(pytester, "--llm-record=always")
    result.stderr.fnmatch_lines(["*--llm-record: invalid choice: 'always' (choose from *none*once*new*all*)"])
