"""Rows and arrays on disk: what is written is what is read, whole, under a key that knows what decides."""

import json
import os
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from repro.errors import ReproError
from repro.results import (
    TOLERANCE,
    Library,
    Result,
    compact,
    comparable,
    provenance,
    read,
    repeats,
    rows,
    run_key,
    write,
)

DECIDES = {
    "paper": "stilt", "config": {"width": 0.25, "streams": "both", "layers": [1, 2]}, "recipe": {"lr": 0.05},
    "sampling": {"crop": 56}, "protocol": "quick", "dataset": "motionshapes", "fingerprint": "ab", "split": "s1",
    "store": {"short_side": 64, "flow_backend": "tvl1"}, "seed": 1,
}  # fmt: skip


def make_result(key: str = "0123456789abcdef", **changes: object) -> Result:
    row = {
        "key": key, "paper": "stilt", "experiment": "stil@vgg19/x", "dataset": "folder", "split": "s1", "seed": 3,
        "outputs": ["spatial"], "provenance": {"first_losses": [1.5, 1.25, 1.0]}, **changes,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = {"losses": np.float32([1.5, 1.25])}
    for part, n in (("train", 5), ("test", 4)):
        arrays |= {
            f"{part}_spatial": rng.normal(size=(n, 3)).astype(np.float16),
            f"{part}_labels": np.arange(n, dtype=np.int16) % 3,
            f"{part}_ids": np.array([f"c/{part} ü{i}" for i in range(n)]),
            f"{part}_groups": np.array(["g"] * n),
        }
    return Result(row, arrays)


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = make_result()
    path = write(result, tmp_path)
    again = read(path, recorded=True)
    assert again.row == result.row
    assert again.arrays.keys() == result.arrays.keys()
    for name, array in result.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)
    assert again.recorded
    assert (again.key, again.outputs) == ("0123456789abcdef", ["spatial"])
    assert again.logits("spatial").dtype == np.float32
    assert again.logits("spatial", "train").shape == (5, 3)
    assert again.labels().tolist() == [0, 1, 2, 0]
    assert again.ids()[0] == "c/test ü0"
    assert path.relative_to(tmp_path).as_posix() == "stilt/folder/stil-vgg19-x-s1-s3-01234567.json"


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first, second = (write(make_result(), tmp_path / name) for name in "ab")
    for suffix in (".json", ".npz"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


def test_a_failed_write_leaves_the_old_result_and_no_litter(tmp_path, monkeypatch):
    path = write(make_result(), tmp_path)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}

    def full(*_, **__):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", full)
        with pytest.raises(OSError, match="no space"):
            write(make_result(note="new"), tmp_path)
    assert json.loads(path.read_text())["provenance"] == make_result().row["provenance"]
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="no space"):
            write(make_result(note="new"), tmp_path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    assert [r["key"] for _, r in rows(tmp_path)] == ["0123456789abcdef"]


def test_a_row_appears_only_after_its_arrays(tmp_path, monkeypatch):
    moved = []
    replace_file = os.replace
    monkeypatch.setattr("pathlib.Path.replace", lambda a, b: (moved.append(b.suffix), replace_file(a, b))[0])
    write(make_result(), tmp_path)
    assert moved == [".npz", ".json"]


def test_python_objects_are_refused(tmp_path):
    result = replace(make_result(), arrays={"x": np.array([{}], dtype=object)})
    with pytest.raises(TypeError, match="'x' holds Python objects"):
        write(result, tmp_path)


@pytest.mark.parametrize("damage", ["cut row", "cut arrays", "no arrays", "flip"])
def test_damaged_results(tmp_path, damage):
    path = write(make_result(), tmp_path)
    arrays = path.with_suffix(".npz")
    if damage == "cut row":
        path.write_text(path.read_text()[:50])
        with pytest.raises(ReproError, match="the row is damaged .*: delete it and run again") as error:
            Library(tmp_path)
        assert str(path) in str(error.value)
    elif damage == "cut arrays":
        arrays.write_bytes(arrays.read_bytes()[:200])
    elif damage == "no arrays":
        arrays.unlink()
    else:
        data = bytearray(arrays.read_bytes())
        with zipfile.ZipFile(arrays) as archive:
            entry = archive.getinfo("test_spatial.npy")
        data[entry.header_offset + 30 + len(entry.filename) + entry.compress_size - 5] ^= 0x10
        arrays.write_bytes(data)
    with pytest.raises(ReproError, match="cannot be read .*: delete it and run again") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_the_key_does_not_know_the_order_of_a_dict():
    def shuffled(value, rng):
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        rng.shuffle(items)
        return {k: shuffled(v, rng) for k, v in items}

    assert {run_key(shuffled(DECIDES, random.Random(i))) for i in range(10)} == {run_key(DECIDES)}


def test_the_key_knows_every_part():
    def changed(value):
        """Every mapping that differs from `value` in one leaf, or lacks one."""
        for name, part in value.items():
            if isinstance(part, dict):
                for other in changed(part):
                    yield {**value, name: other}
            else:
                yield {**value, name: [*part, 3] if isinstance(part, list) else f"{part}x" if part == str(part) else -9}
                yield {k: v for k, v in value.items() if k != name}

    variants = list(changed(DECIDES))
    keys = {run_key(v) for v in variants} | {run_key(DECIDES)}
    assert len(keys) == len(variants) + 1
    assert all(len(k) == 16 for k in keys)


def test_keys_stay_what_they_were():
    """Recorded rows are found by these: a change here makes every one of them unreachable."""
    assert run_key({"a": 1, "b": [1, 2.5, None], "c": {"ä": True}}) == "8bbece273cf39922"


def test_the_library_finds_own_and_recorded_results(tmp_path):
    own, recorded = tmp_path / "own", tmp_path / "recorded"
    write(make_result("a" * 16), recorded)
    write(make_result("b" * 16, seed=4), own)
    (own / "notes.json").write_text("[1]")
    (own / ".half.json").write_text("{")
    library = Library(own, recorded)
    assert "a" * 16 in library
    assert "b" * 16 in library
    assert "c" * 16 not in library
    assert library.get("a" * 16).recorded
    assert not library.get("b" * 16).recorded
    path = library.put(make_result("c" * 16, seed=5))
    assert path.is_relative_to(own)
    assert library.get("c" * 16).row["seed"] == 5
    assert "c" * 16 in Library(own, recorded)
    assert "a" * 16 not in Library(tmp_path / "nowhere", None)


@pytest.mark.parametrize(
    ("device", "cpu", "cuda"),
    [
        ("cpu", True, False), ("A GPU", False, True), ("A GPU + cpu", False, False), ("A GPU + B GPU", False, True),
        ("2 x cpu", False, False), ("2 x A GPU + A GPU", False, False),
        ("cpu compiled + cpu", False, False), ("A GPU compiled nvJPEG + A GPU", False, False),
    ],
)  # fmt: skip
def test_losses_are_compared_with_those_of_the_same_kind_of_device(device, cpu, cuda):
    row = {"provenance": {"device": device}}
    assert (comparable(row, "cpu"), comparable(row, "cuda")) == (cpu, cuda)


def test_provenance():
    found = provenance("cpu")
    assert found["device"] == "cpu"
    assert found["versions"]["torch"]
    assert found["commit"] == "unknown" or len(found["commit"].removesuffix("+dirty")) == 12


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([1.5, 1.25, 1.0], True), ([1.5 + 0.9 * TOLERANCE, 1.25, 1.0, 7.0], True), ([1.5, 1.25, 1 + 2 * TOLERANCE], False),
     ([1.5, 1.25], False), ([float("nan")] * 3, False)],
)  # fmt: skip
def test_what_counts_as_repeating(losses, expected):
    assert repeats(make_result().row, losses) is expected


def test_scores_are_halved_unless_one_is_too_large():
    small = np.array([[1.0, -65504.0], [np.inf, np.nan]], np.float32)
    assert compact(small).dtype == np.float16
    np.testing.assert_array_equal(compact(small), small)
    large = np.array([[1.0, -65504.0], [70000.0, 2.0]], np.float32)
    assert compact(large).dtype == np.float32
    np.testing.assert_array_equal(compact(large), large)
    assert compact(np.zeros((0, 3))).shape == (0, 3)
