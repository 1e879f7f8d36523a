"""Folders that are whole or known to be damaged, and files whose damage is named with its line."""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.errors import UserError
from rltf.files import (
    SUMS,
    checkpoints,
    damage,
    has_torn_tail,
    is_cached,
    keep_rows_until,
    newest_whole_checkpoint,
    prune,
    read_json,
    read_rows,
    read_steps,
    read_yaml,
    set_aside,
    write_folder,
)


def write(folder: Path) -> Path:
    """A folder like a checkpoint."""

    def fill(incomplete: Path) -> None:
        (incomplete / "trainer_state").mkdir()
        (incomplete / "model.safetensors").write_bytes(random.Random(0).randbytes(5000))
        (incomplete / "trainer_state" / "optimizer.pt").write_bytes(b"123456")
        (incomplete / "empty.json").touch()

    write_folder(folder, fill)
    return folder


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(bytes(data))


def test_sha256sum_checks_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "step-1")
    assert damage(folder) is None
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    flip(folder / "model.safetensors", 4000)
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 1


@given(
    name=st.sampled_from(["model.safetensors", "trainer_state/optimizer.pt", SUMS]),
    place=st.integers(0, 5000),
    kind=st.sampled_from(["flipped", "truncated", "missing"]),
)
def test_any_changed_byte_is_noticed(name: str, place: int, kind: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        file = write(Path(parent) / "step-1") / name
        if kind == "flipped":
            flip(file, place)
        elif kind == "truncated":
            file.write_bytes(file.read_bytes()[: place % file.stat().st_size])
        else:
            file.unlink()
        found = damage(file.parents[len(Path(name).parts) - 1])
        assert found is not None
        assert name in found or name == SUMS


def test_a_list_that_was_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    """Also between two lines, so that the files on the lines that are gone would not be checked."""
    folder = write(tmp_path / "step-1")
    content = (folder / SUMS).read_bytes()
    for size in range(len(content)):
        (folder / SUMS).write_bytes(content[:size])
        assert SUMS in str(damage(folder)), content[:size]
    (folder / SUMS).write_bytes(content[: content.index(b"\n") + 1])
    assert damage(folder) == "its SHA256SUMS is cut short: it does not list trainer_state/optimizer.pt"


def test_files_that_were_added_do_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "step-1")
    (folder / "README.md").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "upload").touch()
    assert damage(folder) is None


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        write(tmp_path / f"step-{step}")
    (tmp_path / "step-99").mkdir()
    (tmp_path / "step-10" / "trainer_state" / "optimizer.pt").write_bytes(b"")
    found, damaged = newest_whole_checkpoint(tmp_path)
    assert found == tmp_path / "step-4"
    assert damaged == {
        tmp_path / "step-99": f"it has no {SUMS}, so it is incomplete, or an earlier version of this program wrote it",
        tmp_path / "step-10": "trainer_state/optimizer.pt is not as it was written",
    }


def test_what_is_set_aside_is_neither_a_checkpoint_nor_deleted(tmp_path: Path) -> None:
    for _ in range(2):
        set_aside(write(tmp_path / "step-1"))
    write(tmp_path / "step-1")
    write(tmp_path / "step-2")
    assert checkpoints(tmp_path) == [tmp_path / "step-1", tmp_path / "step-2"]
    prune(tmp_path, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"set-aside-step-1", "set-aside-step-1.2", "step-2"}


def test_a_damaged_folder_of_a_cache_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-1"
    assert not is_cached(folder)
    write(folder)
    assert is_cached(folder)
    flip(folder / "model.safetensors", 1)
    assert not is_cached(folder)
    write(folder)
    assert is_cached(folder)


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\0" * 4096, b'{"step": 3}', b'{"step"\0\0\0'])
def test_a_torn_tail_is_dropped(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    assert not has_torn_tail(path)
    path.write_bytes(path.read_bytes() + tail)
    assert has_torn_tail(path)
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    keep_rows_until(path, 9)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"\0\0\0", b'{"step": 2', b"[2]", b'{"step": "\xff"}', b"{}", b'{"step": 2.0}', b'{"step": true}',
     b'{"step": -1}', b'{"step": 1}', b"9" * 5000, b"[" * 100_000],
    ids=lambda line: repr(line[:16]),
)  # fmt: skip
def test_any_other_damage_is_named_with_its_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: .*delete the line"):
        read_steps(path)


def test_other_damaged_files_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{\n"a": 1,\n}')
    with pytest.raises(UserError, match=r"file:3: not valid JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"file:1: expected a JSON object, found list"):
        read_json(path)
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(UserError, match=r"file:2: not UTF-8"):
        read_yaml(path)
    path.write_text("a: 1\nb: [")
    with pytest.raises(UserError, match=r"file:2: invalid YAML"):
        read_yaml(path)
    path.write_text("a: 1\0")
    with pytest.raises(UserError, match=r"file: invalid YAML: special characters are not allowed"):
        read_yaml(path)
    path.write_text("a: 2026-13-45")
    with pytest.raises(UserError, match=r"file: invalid YAML: month must be in 1\.\.12"):
        read_yaml(path)
    path.write_text("a")
    with pytest.raises(UserError, match=r"file: expected NAME: VALUE, found str"):
        read_yaml(path)
