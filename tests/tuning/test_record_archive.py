"""One file with records: whole, or refused."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tuning.record_examples import DEVICE, TEMPLATE, TVM, choice, trial, workload
from tests.tuning.test_record_merge import written
from tvm_iovt.errors import IovtError, TuningError, UsageError
from tvm_iovt.tuning import record_archive
from tvm_iovt.tuning.record_archive import export, read_archive
from tvm_iovt.tuning.record_files import TRIALS
from tvm_iovt.tuning.record_folder import read_folder
from tvm_iovt.tuning.record_merge import merge


@pytest.fixture
def folder(tmp_path):
    return written(
        tmp_path / "logs",
        workload(),
        trial("a"),
        trial("b", failed="run", error="\u2028 ü"),
        trial("t", source=TEMPLATE),
        choice(),
    )


@pytest.fixture
def archive(folder, tmp_path):
    export(folder, tmp_path / "out" / "records.iovt-logs")
    return tmp_path / "out" / "records.iovt-logs"


def test_there_and_back_again(folder, archive, tmp_path):
    (folder / TRIALS.name).open("ab").write(b'{"torn')
    manifest, read = export(folder, archive)
    assert len(read.problems) == 1
    assert manifest.devices == (DEVICE,) and manifest.tvm_versions == (TVM,)
    assert manifest.folder == "znver4"
    again, records = read_archive(archive)
    assert again == manifest
    merge([records], tmp_path / "new")
    new, old = read_folder(tmp_path / "new" / "znver4"), read_folder(folder)
    for mine, theirs in zip(new.lines, old.lines, strict=True):
        assert mine.records == theirs.records
    assert not new.problems
    (outcome,) = merge([read_archive(archive)[1]], tmp_path / "new")
    assert outcome.trials == outcome.choices == 0 and outcome.known == 4


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=8, unique=True),
    text=st.text(max_size=30),
)
def test_any_records_survive(tmp_path_factory, names, text):
    base = tmp_path_factory.mktemp("round")
    records = [trial(name, failed="run", error=text, runner=text) for name in names]
    folder = written(base / "src", *records)
    export(folder, base / "x.iovt-logs")
    merge([read_archive(base / "x.iovt-logs")[1]], base / "dst")
    assert list(read_folder(base / "dst" / "znver4").trials.records) == records


def rewritten(archive: Path, change) -> Path:
    """The archive with other members, its manifest as it was unless that is changed."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return archive


def manifest_change(**changes):
    def change(members):
        found = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps({**found, **changes}).encode()

    return change


def sizes(size_bytes: int):
    def change(members):
        found = json.loads(members["manifest.json"])
        for file in found["files"]:
            file["size_bytes"] = size_bytes
        members["manifest.json"] = json.dumps(found).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update({"trials.jsonl": m["trials.jsonl"].replace(b"a", b"b", 1)}), "SHA-256"),
        (lambda m: m.update({"trials.jsonl": m["trials.jsonl"] + b"\n"}), "larger than"),
        (lambda m: m.pop("trials.jsonl"), "other files than its manifest names"),
        (lambda m: m.update({"kernel_choice.jsonl": b""}), "other files than its manifest names"),
        (lambda m: m.update({"../../.bashrc": b"evil"}), "does not belong there"),
        (lambda m: m.update({"/etc/passwd": b"evil"}), "does not belong there"),
        (lambda m: m.update({"runs/x.json": b"{}"}), "does not belong there"),
        (lambda m: m.pop("manifest.json"), "no manifest"),
        (lambda m: m.update({"manifest.json": b"[" * 99_999}), "nonsense in its manifest"),
        (lambda m: m.update({"manifest.json": b"\xff"}), "codec"),
        (lambda m: m.update({"manifest.json": b" " * (2 << 20)}), "larger than"),
        (manifest_change(schema="tvm-iovt/tuning-archive/2"), "tuning-archive/2"),
        (manifest_change(files="all"), "list"),
        (manifest_change(colour="red"), "unknown colour"),
        (sizes(-5), "larger than 0 bytes"),
        (sizes(1 << 60), "SHA-256"),
    ],
)
def test_what_is_not_whole_is_refused(archive, change, reason):
    with pytest.raises(TuningError) as caught:
        read_archive(rewritten(archive, change))
    assert reason in str(caught.value) and str(archive) in caught.value.what


def test_a_bomb_is_not_unpacked(archive, monkeypatch):
    monkeypatch.setattr(record_archive, "LARGEST_BYTES", 5000)
    rewritten(archive, lambda members: members.update({"trials.jsonl": b"\0" * 50_000_000}))
    assert archive.stat().st_size < 100_000
    with pytest.raises(TuningError, match="is not a whole archive") as caught:
        read_archive(archive)
    assert "unpacked" in caught.value.seen


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(archive, monkeypatch):
    """Its headers promise little; what is read is limited, too."""
    rewritten(archive, lambda members: members.update({"trials.jsonl": b"\0" * 50_000_000}))
    content = archive.read_bytes()
    assert (50_000_000).to_bytes(4, "little") in content
    archive.write_bytes(content.replace((50_000_000).to_bytes(4, "little"), b"\x00\x01\x00\x00"))
    with pytest.raises(TuningError, match="is not a whole archive"):
        read_archive(archive)


def test_a_name_that_is_there_twice(archive):
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(archive, "a") as opened,
    ):
        opened.writestr("trials.jsonl", b"")
    with pytest.raises(TuningError, match="is not a whole archive"):
        read_archive(archive)


def test_other_compression_is_refused(archive):
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(TuningError, match="is not a whole archive") as caught:
        read_archive(archive)
    assert "deflate" in caught.value.seen


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(archive, data):
    content = bytearray(archive.read_bytes())
    sound = read_archive(archive)[1]
    end = data.draw(st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = archive.with_name("damaged")
    damaged.write_bytes(content[:end] if data.draw(st.booleans()) else content)
    try:
        found = read_archive(damaged)[1]
    except IovtError as error:
        assert isinstance(error, TuningError)
    else:
        assert [lines.records for lines in found.lines] == [lines.records for lines in sound.lines]


def test_no_file_and_no_archive(tmp_path):
    with pytest.raises(UsageError, match="Cannot read"):
        read_archive(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="Cannot read"):
        read_archive(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TuningError, match="is not a whole archive"):
        read_archive(tmp_path / "text")


def test_there_must_be_something_to_export(tmp_path):
    folder = written(tmp_path, workload())
    with pytest.raises(TuningError, match="nothing to export"):
        export(folder, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_records_say_where_they_belong_not_the_archive(archive, tmp_path):
    """A manifest that names another folder, records that name a folder outside."""
    rewritten(archive, manifest_change(folder="../../../etc"))
    (outcome,) = merge([read_archive(archive)[1]], tmp_path / "dst")
    assert Path(outcome.folder) == tmp_path / "dst" / "znver4"
    cpu = dataclasses.replace(DEVICE.cpu, mcpu="../../evil")
    odd = written(tmp_path / "odd", trial(device=dataclasses.replace(DEVICE, cpu=cpu)))
    export(odd, archive)
    (outcome,) = merge([read_archive(archive)[1]], tmp_path / "dst")
    assert Path(outcome.folder).resolve().parent == (tmp_path / "dst").resolve()
