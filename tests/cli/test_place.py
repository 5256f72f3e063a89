"""`--resume`: the place is whole, of one process at a time, and never quietly none."""

import os
import signal
from pathlib import Path

import pytest

from changefeed_client.checkpoint import replace_file
from changefeed_gateway.cli.demo.mirror import Mirror
from changefeed_gateway.cli.exclusive_file import exclusive
from changefeed_gateway.cli.place import Place, PlaceError, kept_place
from tests.cli.conftest import CommandLine, MemoryGateway, finished
from tests.cli.test_reading import DOCUMENTS, names, next_record, write

ONE, TWO = "a" * 5_000, "b" * 60


def test_a_place_is_replaced_whole(tmp_path: Path) -> None:
    with kept_place(tmp_path / "place") as place:
        assert place is not None
        assert place.load() is None
        for token in (ONE, TWO):
            place.save(token)
            assert place.load() == token
    assert [file.name for file in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\0" * 200, b"\xff" * 200, b"short\n", b"a" * 60 + b" " + b"b" * 60, b"a" * 1_000_001]
)
def test_a_place_that_says_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "place").write_bytes(content)
    with pytest.raises(PlaceError), kept_place(tmp_path / "place"):
        pass
    assert (tmp_path / "place").read_bytes() == content


def test_a_symlink_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "place"
    link.symlink_to(tmp_path / "elsewhere" / "target")
    for token in (ONE, TWO):
        with kept_place(link) as place:
            assert place is not None
            place.save(token)
    assert link.is_symlink()
    assert Place(tmp_path / "elsewhere" / "target").load() == TWO
    with kept_place(link), pytest.raises(PlaceError, match="another"), kept_place(tmp_path / "elsewhere" / "target"):
        pass


@pytest.mark.parametrize("name", [".", "/dev/null", "/proc/place", "nowhere/place", "loop"])
def test_a_place_that_cannot_be_kept_is_found_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PlaceError), kept_place(tmp_path / name):
        pass


def test_a_draft_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    """In a directory for everybody, somebody could have our place written over a file of ours."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "place.new").symlink_to(precious)
    replace_file(tmp_path / "place", "text")
    (tmp_path / "place.lock").symlink_to(precious)
    with pytest.raises(PlaceError), kept_place(tmp_path / "place"):
        pass
    assert precious.read_text() == "precious"
    assert (tmp_path / "place").read_text() == "text"


def test_a_file_keeps_its_mode_and_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    replace_file(file, "one")
    file.chmod(0o600)
    replace_file(file, "two")
    assert file.stat().st_mode & 0o777 == 0o600

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, "three")
    with pytest.raises(OSError, match="No space"), exclusive(tmp_path / "lock"):
        pass
    assert file.read_text() == "two"
    assert not (tmp_path / "file.new").exists()


def test_a_new_file_survives_a_crash_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    replace_file(tmp_path / "file", "one")
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"token": "t", "items": [1]}'])
def test_a_damaged_mirror_of_the_demo_is_no_missing_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "demo.json"
    assert not Mirror(file).load()
    file.write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        Mirror(file).load()


@pytest.mark.req("P1")
@pytest.mark.parametrize("command", ["read", "tail"])
async def test_an_empty_place_is_no_start(changefeed: CommandLine, memory_gateway: MemoryGateway, command: str) -> None:
    """From now would hide what the lost place stood before."""
    write(memory_gateway, "one")
    (changefeed.directory / "place").touch()
    result = await changefeed.run(command, DOCUMENTS, "--resume", "place", "--max-events", "1", "--json")
    assert (result.code, result.out) == (12, "")
    assert "holds no place" in result.err
    assert "Traceback" not in result.err


async def test_a_place_that_cannot_be_kept_is_said_before_the_first_change(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, "one")
    result = await changefeed.run("read", DOCUMENTS, "--resume", "nowhere/place", "--json")
    assert (result.code, result.out) == (12, "")
    assert "No such file" in result.err


async def test_a_place_belongs_to_one_process(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, "one")
    arguments = ("tail", DOCUMENTS, "--from", "beginning", "--resume", "place", "--json")
    first = await changefeed.start(*arguments)
    await next_record(first, "change")
    second = await changefeed.run(*arguments)
    assert (second.code, second.out) == (12, "")
    assert "another process" in second.err
    first.send_signal(signal.SIGKILL)
    await finished(first)
    write(memory_gateway, "two")
    third = await changefeed.run("read", DOCUMENTS, "--resume", "place", "--json")
    assert third.code == 0, "the lock ended with its process"
    assert "two" in names(third.records)


@pytest.mark.parametrize("content", [None, b""])
async def test_a_token_from_a_file_that_has_none(detached: CommandLine, content: bytes | None) -> None:
    if content is not None:
        (detached.directory / "place").write_bytes(content)
    result = await detached.run("token", "inspect", DOCUMENTS, "--file", "place")
    assert result.code == 12
