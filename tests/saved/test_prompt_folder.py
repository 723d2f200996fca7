"""A folder of stored prompts gives back what was written, or nothing; it stays within its bound whatever happens."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.saved.prompt_folder import PromptFolder, PromptTooLargeError
from localllm.saved.sections import END, MAGIC, write_section
from localllm.saved.state import StateBlock, StateHead, write_state

TOKENS = array("i", range(100))


def folder_in(root: Path, limit_bytes: int = 1 << 20, *, form: str = "toy", model_hash: str = "abc") -> PromptFolder:
    """Return a folder, as a process of its own would."""
    return PromptFolder(root / "prompts", limit_bytes, form, model_hash)


def cells(tokens: array[int], size: int = 40) -> list[StateBlock]:
    """Return cells for all tokens, some bytes for each."""
    stops = range(0, len(tokens), 64)
    return [
        StateBlock(start, min(start + 64, len(tokens)), bytes([start % 251]) * size * min(64, len(tokens) - start))
        for start in stops
    ]


def files(root: Path) -> list[Path]:
    """Return all stored prompts."""
    return sorted(root.rglob("*.prompt"))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The file of one stored prompt."""
    folder_in(tmp_path).write(TOKENS, cells(TOKENS))
    return files(tmp_path)[0]


def test_what_one_process_stores_another_finds(tmp_path: Path) -> None:
    """Also one that has looked before; a prompt that goes on or ends earlier finds its part."""
    writer, reader = folder_in(tmp_path), folder_in(tmp_path)
    assert reader.find(TOKENS) is None
    writer.write(TOKENS, cells(TOKENS))
    for wanted, length in ((TOKENS, 100), (TOKENS + array("i", [7]), 100), (TOKENS[:80], 80)):
        found = reader.find(wanted)
        assert found is not None
        assert (found.tokens, found.size_bytes) == (length, files(tmp_path)[0].stat().st_size)
        assert reader.read(found.name) == (TOKENS, cells(TOKENS))
    assert reader.find(array("i", [*range(50), *range(900, 950)])) is None


def test_only_its_owner_may_look(stored: Path) -> None:
    """The file is 0600, and both folders are 0700."""
    modes = [path.stat().st_mode & 0o777 for path in (stored, stored.parent, stored.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_another_model_build_or_cache_never_sees_it(tmp_path: Path, stored: Path) -> None:
    """Nor does it remove it."""
    for other in (folder_in(tmp_path, form="toy 2"), folder_in(tmp_path, model_hash="abd")):
        assert other.find(TOKENS) is None
    assert stored.exists()


def test_every_damaged_byte_is_refused_and_the_file_is_removed(tmp_path: Path, stored: Path) -> None:
    """Each single one, whether the damage comes before the first look or after it."""
    whole, chance = stored.read_bytes(), random.Random(7)
    early, late = folder_in(tmp_path), folder_in(tmp_path)
    for at in range(len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
        stored.write_bytes(damaged)
        assert late.read(stored.name) is None
        assert not stored.exists()
        if at % 50 == 0 or at < 500:
            stored.write_bytes(damaged)
            found = early.find(TOKENS)
            assert found is None or early.read(found.name) is None
            assert not stored.exists()


@given(st.data())
def test_files_that_are_cut_off_longer_or_something_else_are_refused(data: st.DataObject) -> None:
    """A beginning of one, one with more behind it, and random bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder_in(Path(name)).write(TOKENS, cells(TOKENS))
        (path,) = files(Path(name))
        whole = path.read_bytes()
        cut = st.integers(0, len(whole) - 1).map(lambda at: whole[:at])
        longer = st.binary(min_size=1, max_size=9).map(lambda more: whole + more)
        path.write_bytes(data.draw(st.one_of(cut, longer, st.binary(max_size=200), st.just(MAGIC))))
        folder = folder_in(Path(name))
        found = folder.find(TOKENS)
        assert found is None or folder.read(found.name) is None
        assert not path.exists()


def foreign() -> Iterator[tuple[str, StateHead, list[StateBlock]]]:
    """Yield states, whole and with right checksums, that are not what their file's name says."""
    mine = StateHead("toy", "abc", tuple(TOKENS))
    yield "another build", StateHead("toy 2", "abc", tuple(TOKENS)), cells(TOKENS)
    yield "another model", StateHead("toy", "xyz", tuple(TOKENS)), cells(TOKENS)
    yield "other tokens", StateHead("toy", "abc", tuple(TOKENS[:-1])), cells(TOKENS[:-1])
    yield "cells missing", mine, cells(TOKENS)[:-1]
    yield "cells twice", mine, [*cells(TOKENS)[:1], *cells(TOKENS)]
    yield "a hole", mine, cells(TOKENS)[1:]
    yield "nothing", mine, []
    yield "an empty block", mine, [*cells(TOKENS), StateBlock(100, 100, b"")]


@pytest.mark.parametrize(("head", "blocks"), [case[1:] for case in foreign()], ids=[case[0] for case in foreign()])
def test_a_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, stored: Path, head: StateHead, blocks: list[StateBlock]
) -> None:
    """Other versions and mixed-up files among them."""
    with stored.open("wb") as file:
        file.write(MAGIC)
        write_state(file, head, blocks)
        write_section(file, END)
    folder = folder_in(tmp_path)
    found = folder.find(TOKENS)
    assert found is None or folder.read(found.name) is None
    assert not stored.exists()


def test_sections_of_a_later_version_and_huge_ones_are_refused(tmp_path: Path, stored: Path) -> None:
    """A kind that is unknown, no state at all, and a head that would fill the memory."""
    folder = folder_in(tmp_path)
    for kinds in ((b"STAT", b"MORE", b"END."), (b"MORE", b"END."), (b"END.",)):
        with stored.open("wb") as file:
            file.write(MAGIC)
            for kind in kinds:
                if kind == b"STAT":
                    write_state(file, StateHead("toy", "abc", tuple(TOKENS)), cells(TOKENS))
                else:
                    write_section(file, kind)
        assert folder.read(stored.name) is None
        assert not stored.exists()
    with stored.open("wb") as file:
        file.write(MAGIC + b"STAT" + (1 << 40).to_bytes(8, "little") + bytes(32))
        file.truncate(2 << 40 if sys.platform == "linux" else 1)  # of holes
    assert folder.find(TOKENS) is None
    assert not stored.exists()


def test_what_is_no_plain_file_of_this_user_is_not_read(tmp_path: Path, stored: Path) -> None:
    """A link, a pipe, a folder, and a file that others may write: none is followed, waited for or believed."""
    elsewhere = tmp_path / "elsewhere"
    stored.rename(elsewhere)
    stored.symlink_to(elsewhere)
    assert folder_in(tmp_path).find(TOKENS) is None
    assert folder_in(tmp_path).read(stored.name) is None
    assert elsewhere.exists()
    stored.unlink()
    os.mkfifo(stored)
    assert folder_in(tmp_path).find(TOKENS) is None
    assert not stored.exists()
    stored.mkdir()
    assert folder_in(tmp_path).find(TOKENS) is None
    stored.rmdir()
    elsewhere.rename(stored)
    stored.chmod(0o666)
    assert folder_in(tmp_path).find(TOKENS) is None


def test_a_prompt_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """The cause is raised: of the one who reads the cells, or of the system."""

    def broken() -> Iterator[StateBlock]:
        yield cells(TOKENS)[0]
        raise KeyError("gone")

    with pytest.raises(KeyError):
        folder_in(tmp_path).write(TOKENS, broken())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    (tmp_path / "a file").touch()
    with pytest.raises(OSError, match="a file"):
        PromptFolder(tmp_path / "a file", 1000, "toy", "abc").write(TOKENS, cells(TOKENS))


def test_a_prompt_larger_than_the_bound_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    """What is there is of more use."""
    folder = folder_in(tmp_path, 6000)
    folder.write(TOKENS, cells(TOKENS))
    with pytest.raises(PromptTooLargeError, match="200 tokens"):
        folder.write(array("i", range(200)), cells(array("i", range(200))))
    assert [found.tokens for found in [folder.find(TOKENS)] if found is not None] == [100]
    assert len(files(tmp_path)) == len(list((tmp_path / "prompts").glob("*/*"))) == 1


def test_the_one_used_longest_ago_leaves_first(tmp_path: Path) -> None:
    """Reading is a use, and so is `touch`; prompts of other models leave, too."""
    size = 5000
    folder, other = folder_in(tmp_path, 4 * size), folder_in(tmp_path, 4 * size, form="toy 2")
    prompts = [array("i", range(number, number + 100)) for number in range(0, 500, 100)]
    other.write(prompts[0], cells(prompts[0]))
    for prompt in prompts[1:4]:
        folder.write(prompt, cells(prompt))
    names = [found.name for prompt in prompts[1:4] if (found := folder.find(prompt)) is not None]
    ages = {path: time.time() - 1000 + number for number, path in enumerate(files(tmp_path)) if path.name not in names}
    ages |= {path: time.time() - 500 + names.index(path.name) for path in files(tmp_path) if path.name in names}
    for path, moment in ages.items():
        os.utime(path, (moment, moment))
    assert folder.read(names[0]) is not None
    folder.write(prompts[4], cells(prompts[4]))
    assert [folder.find(prompt) is not None for prompt in prompts[1:]] == [True, True, True, True]
    assert other.find(prompts[0]) is None
    folder.touch(names[1])
    folder.write(prompts[0], cells(prompts[0]))
    assert [folder.find(prompt) is not None for prompt in prompts] == [True, True, True, False, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(70, 200)), max_size=12), st.integers(10_000, 30_000))
def test_the_bound_holds_after_any_writes(writes: list[tuple[int, int]], limit: int) -> None:
    """Of any sizes, by two who take turns; the one written last is there, and what is found can be read."""
    with tempfile.TemporaryDirectory() as name:
        folders = [folder_in(Path(name), limit), folder_in(Path(name), limit)]
        for number, (begin, length) in enumerate(writes):
            tokens = array("i", range(begin, begin + length))
            folders[number % 2].write(tokens, cells(tokens, 40))
            assert sum(path.stat().st_size for path in files(Path(name))) <= limit
            found = folders[1 - number % 2].find(tokens)
            assert found is not None
            content = folders[1 - number % 2].read(found.name)
            assert content is not None
            assert content[0][:length] == tokens  # perhaps of one that goes on
            assert content[1] == cells(content[0], 40)


def test_what_a_dead_process_left_is_removed_later(tmp_path: Path, stored: Path) -> None:
    """A part of this moment stays, for somebody may be writing it; other files are none of ours."""
    parts = [stored.with_name(f".{stored.name}.{word}.part") for word in ("old", "new")]
    notes = stored.with_name("notes.txt")
    for path in (*parts, notes):
        path.touch()
    for path in (parts[0], notes):
        os.utime(path, (1, 1))
    folder_in(tmp_path).write(TOKENS, cells(TOKENS))
    assert [path.exists() for path in (*parts, notes)] == [False, True, True]


_PROCESS = """
import sys, random
from array import array
from pathlib import Path
from tests.saved.test_prompt_folder import cells, folder_in
root, seed = Path(sys.argv[1]), int(sys.argv[2])
chance, folder, read = random.Random(seed), folder_in(root, 30_000), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(150):
    tokens = array("i", range((begin := chance.randrange(12)), begin + 100))
    found = folder.find(tokens)
    if found is not None and (content := folder.read(found.name)) is not None:
        assert content[1] == cells(content[0])
        read += 1
    else:
        folder.write(tokens, cells(tokens))
print(read)
"""


def test_processes_that_write_and_evict_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """None fails, each reads what is right, and the bound holds at the end."""
    command = [sys.executable, "-c", _PROCESS, str(tmp_path)]
    place = Path(__file__).parents[2]
    started = [
        subprocess.Popen([*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place)
        for seed in range(2)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        reads = [int(process.communicate("go\n", timeout=30)[0]) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0]
    assert min(reads) > 0
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 30_000
    assert list(tmp_path.rglob("*.part")) == []
