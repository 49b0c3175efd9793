"""File access: writes are atomic and stay inside their folder; reads check what kind of file they read."""

import hashlib
import json
import os
import threading

import pytest

from grokinterp.errors import GrokinterpError, RunError, logger
from grokinterp.runs.checksums import without_checksum
from grokinterp.runs.files import (
    append,
    file_checksum,
    make_subfolder,
    parse_json,
    read_bytes,
    read_lines,
    read_text,
    remove_leftovers,
    write_atomically,
)


def test_log_messages_are_printable(caplog):
    logger("grokinterp.test").warning("%s: %d steps", "\x1b[31mred\n", 5)
    assert caplog.messages == ["\\x1b[31mred\\n: 5 steps"]


class TestWriting:
    def test_a_symlink_is_replaced_and_its_target_is_left_alone(self, tmp_path):
        (tmp_path / "victim").write_text("mine")
        (tmp_path / "file").symlink_to(tmp_path / "victim")
        write_atomically(tmp_path / "file", "ours")
        assert (tmp_path / "victim").read_text() == "mine"
        assert (tmp_path / "file").read_text() == "ours"
        assert not (tmp_path / "file").is_symlink()

    def test_a_symlink_under_the_temporary_name(self, tmp_path, monkeypatch):
        monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
        (tmp_path / "victim").write_text("mine")
        (tmp_path / f".file.{os.getpid()}-00000000.tmp").symlink_to(tmp_path / "victim")
        with pytest.raises(RunError, match="File exists"):
            write_atomically(tmp_path / "file", "new")
        assert (tmp_path / "victim").read_text() == "mine"

    def test_a_line_is_not_appended_through_a_symlink(self, tmp_path):
        (tmp_path / "victim").write_text("mine\n")
        (tmp_path / "file").symlink_to(tmp_path / "victim")
        with pytest.raises(RunError, match=r"cannot write .*file"):
            append(tmp_path / "file", "ours\n")
        assert (tmp_path / "victim").read_text() == "mine\n"

    def test_a_line_is_not_appended_through_a_hard_link(self, tmp_path):
        (tmp_path / "mine").write_text("mine\n")
        (tmp_path / "lines").hardlink_to(tmp_path / "mine")
        with pytest.raises(RunError, match="has another name"):
            append(tmp_path / "lines", "more\n")
        assert (tmp_path / "mine").read_text() == "mine\n"

    def test_a_line_is_not_appended_to_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "file")
        with pytest.raises(RunError, match="file"):
            append(tmp_path / "file", "ours\n")

    def test_lines_are_appended(self, tmp_path):
        for line in ("one\n", "two\n"):
            append(tmp_path / "file", line)
        assert list(read_lines(tmp_path / "file")) == [b"one\n", b"two\n"]

    def test_a_subfolder_that_is_a_symlink_to_elsewhere(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "run" / "weights").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match=r"weights is a symlink to somewhere outside .*run\. Replace it with a copy"):
            make_subfolder(tmp_path / "run", "weights")

    def test_a_folder_with_the_same_prefix_is_outside(self, tmp_path):
        for name in ("run", "run2"):
            (tmp_path / name).mkdir()
        (tmp_path / "run" / "weights").symlink_to("../run2")
        with pytest.raises(RunError, match="is a symlink to somewhere outside"):
            make_subfolder(tmp_path / "run", "weights")

    def test_a_run_behind_a_symlink_has_its_own_subfolders(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "run").symlink_to("disk")
        make_subfolder(tmp_path / "run", "weights")
        assert (tmp_path / "disk" / "weights").is_dir()

    def test_leftovers_are_removed_and_nothing_else(self, tmp_path):
        (tmp_path / "victim").write_text("mine")
        (tmp_path / ".a.json.1.tmp").write_text("half")
        (tmp_path / ".a.json.1-0123abcd.tmp").write_text("half")
        (tmp_path / ".b.json.1.tmp").symlink_to(tmp_path / "victim")
        (tmp_path / ".b.json.2.tmp").mkdir()
        yours = ["d.tmp", ".a.tmp", ".a.json.tmp", ".a.json.x.tmp", ".notes.txt.1.tmp", ".a.json.1.tmp.bak"]
        for name in yours:
            (tmp_path / name).write_text("yours")
        remove_leftovers(tmp_path, r"[ab]\.json")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([".b.json.2.tmp", "victim", *yours])


class TestReading:
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "file")
        said: list[str] = []

        def read() -> None:
            try:
                read_bytes(tmp_path / "file")
            except RunError as error:
                said.append(str(error))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(5)
        assert said == [f"{tmp_path}/file is not a regular file. Restore the original file."]

    @pytest.mark.parametrize("target", ["/dev/zero", ".", "/dev/null"])
    def test_paths_that_are_not_regular_files(self, target, tmp_path):
        (tmp_path / "file").symlink_to(target)
        with pytest.raises(RunError, match="file is not a regular file"):
            read_bytes(tmp_path / "file")

    @pytest.mark.parametrize("target", ["file", "nowhere"])
    def test_broken_symlinks(self, target, tmp_path):
        (tmp_path / "file").symlink_to(target)
        with pytest.raises(RunError, match=r"file(: Too many levels| is missing)"):
            read_bytes(tmp_path / "file")

    def test_symlinks_are_followed_when_reading(self, tmp_path):
        (tmp_path / "blob").write_text("s")
        (tmp_path / "link").symlink_to("blob")
        assert read_bytes(tmp_path / "link") == b"s"

    def test_a_file_of_100_gigabytes(self, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            file.truncate(100 << 30)
        with pytest.raises(RunError, match=r"it has 107,374,182,400 bytes, and a file of its kind has at most"):
            read_bytes(tmp_path / "file")
        with pytest.raises(RunError, match="is damaged: it has 68,157,440 bytes"):
            list(read_lines(tmp_path / "file"))

    def test_the_checksum_of_a_large_file(self, tmp_path):
        """The metrics of a long run are larger than the limit for JSON files."""
        with (tmp_path / "file").open("wb") as file:
            file.truncate(70 << 20)
        assert file_checksum(tmp_path / "file") == hashlib.sha256(bytes(70 << 20)).hexdigest()
        with (tmp_path / "file").open("wb") as file:
            file.truncate(100 << 30)
        with pytest.raises(RunError, match=r"it has 107,374,182,400 bytes"):
            file_checksum(tmp_path / "file")

    def test_a_file_that_is_not_utf8(self, tmp_path):
        (tmp_path / "file").write_bytes(b"ab\xff")
        with pytest.raises(RunError, match=r"file is damaged: it is not UTF-8 \(invalid start byte at byte 2\)"):
            read_text(tmp_path / "file")

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, "1" * 5000, '"\\ud800"', "{", "", "\x00"], ids=["deep", "long", "half", "cut", "", "0"]
    )
    def test_invalid_json(self, text):
        with pytest.raises(ValueError, match=r"nested|limit|surrogates|Expecting"):
            parse_json(text)

    def test_json(self):
        content = {"a": [1, 2.5, None, "é \U0001f600"]}
        assert parse_json(json.dumps(content)) == parse_json(json.dumps(content).encode()) == content


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("two\nlines", "two lines"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("file \udc80", "file \\udc80"),
        ("a" * 10_000, "a" * 750 + " ... " + "a" * 750),
    ],
)
def test_an_error_is_one_line_that_a_terminal_can_show(given, said):
    assert str(GrokinterpError(given)) == said


def test_content_nested_as_deeply_as_json_permits_is_one_error():
    for depth in range(900, 1000):
        text = '{"a": ' + "[" * depth + "]" * depth + ', "checksum": "sha256:' + "0" * 64 + '"}'
        with pytest.raises(ValueError, match=r"nested too deeply|does not match"):
            without_checksum(parse_json(text))
