"""The package as users get it: what the wheel holds, that it installs anywhere, what it says of missing parts."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE_DEPENDENCIES = {
    "attrs", "cattrs", "docstring-parser", "filelock", "httpx", "jinja2", "llguidance", "msgspec", "platformdirs",
    "typing-extensions",
}  # fmt: skip
INSTALLED_WITH_THE_CORE = (
    "anyio", "attrs", "cattrs", "certifi", "docstring_parser", "filelock", "h11", "httpcore", "httpx", "idna",
    "jinja2", "llguidance", "markupsafe", "msgspec", "platformdirs", "typing_extensions",
)  # fmt: skip


def run(*command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the source tree; fail with its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))} | variables
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.anchor, env=environment, timeout=60)
    assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what a release is: the source distribution, and the wheel that is built from it.

    As for a release, but with the build backend that is installed here.
    """
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel and the dependencies of its core, and nothing else.

    The wheel goes in through pip. Its dependencies are copied from here, so that no network is needed; `pip check`
    then holds that nothing is missing.
    """
    home = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    for name in INSTALLED_WITH_THE_CORE:
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    return python


def test_the_wheel_fits_every_platform_and_is_typed(wheel: Path) -> None:
    """No compiled part, `py.typed` inside, nothing beside the package itself."""
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "localllm/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"localllm"}


def test_the_source_distribution_has_all_that_its_readme_speaks_of(dist: Path) -> None:
    """Also the Makefile of its two commands, the tests that they run, and every page that it links to."""
    (built,) = dist.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    links = re.findall(r"\]\((?!https:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    assert {*links, "Makefile", "LICENSE", "pyproject.toml", "tests/conftest.py", "tests/fetch_assets.py"} <= names
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]


def test_an_index_would_accept_the_wheel(wheel: Path) -> None:
    """`twine check --strict` finds nothing in the metadata or in the README to complain of."""
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", wheel).stdout


def test_the_core_needs_few_packages(wheel: Path) -> None:
    """What has no extra's name on it is needed by everybody, so it stays short and needs no compiler."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = archive.read(name).decode()
    needed = re.findall(r"^Requires-Dist: (.+)$", told, re.MULTILINE)
    core = {re.split(r"[<>=\[ ;]", line)[0] for line in needed if "extra ==" not in line}
    assert core == CORE_DEPENDENCIES


def test_the_core_alone_is_complete(empty_python: Path) -> None:
    """Where only the core is installed, pip finds nothing missing and the package imports, warnings being errors."""
    run(sys.executable, "-m", "pip", "--python", empty_python, "check")
    code = "import localllm; print(localllm.__version__, [getattr(localllm, name) for name in localllm.__all__] != [])"
    assert run(empty_python, "-W", "error", "-c", code).stdout.split()[1] == "True"


def test_the_fake_works_with_the_core_alone(empty_python: Path) -> None:
    """An application's own tests need neither llama.cpp nor a model."""
    code = (
        "from localllm import *\n"
        "with ModelManager(FakeBackend(['Hello.'])) as models:\n"
        "    print(ChatSession(models.load('any')).send('Hi').text)"
    )
    assert run(empty_python, "-W", "error", "-c", code).stdout == "Hello.\n"


def test_without_llama_the_error_has_the_command(empty_python: Path) -> None:
    """The default backend's absence is told by name, with what to type."""
    code = (
        "import localllm\n"
        "try:\n"
        "    localllm.ModelManager().load('smollm2-135m')\n"
        "except localllm.BackendUnavailableError as exc:\n"
        "    print(isinstance(exc, ImportError), exc)"
    )
    said = run(empty_python, "-c", code).stdout
    assert said.startswith("True ")
    assert 'pip install "localllm[llama]"' in said


def test_without_llama_the_doctor_has_the_command(empty_python: Path) -> None:
    """What does not work comes with what to do about it."""
    code = "from localllm.cli import doctor, machine; print(doctor.check_llamacpp(machine.look()))"
    said = run(empty_python, "-c", code).stdout
    assert "works=False" in said
    assert 'pip install "localllm[llama]"' in said


def test_without_typer_the_command_says_how_to_get_it(empty_python: Path) -> None:
    """The command is installed with the core, so it must be able to say what it lacks."""
    done = run(empty_python.parent / "localllm", "chat", "Hi", check=False)
    assert done.returncode == 2
    assert 'pip install "localllm[cli]"' in done.stderr
    assert "Traceback" not in done.stderr
