"""Weights of other libraries: read bit for bit where they are good, refused in a line where not."""

import json
import os
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from convert import forge

from vdm_jax.convert.read import plain_file, sandbox
from vdm_jax.convert.read.source import open_component, open_source
from vdm_jax.convert.read.tensors import DTYPES, Limits, count_nonfinite
from vdm_jax.core.refusal import Refusal

HERE = Path(__file__).parent
MB = 2**20


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_source(path) as source:
        arrays = {name: source.read(name) for name in source.tensors()}
        for name, info in source.tensors().items():
            array = arrays[name]
            assert (info.shape, info.dtype, info.nbytes) == (
                array.shape, array.dtype.name, array.nbytes
            )  # fmt: skip
            assert array.flags.c_contiguous and array.flags.writeable
    return arrays


def assert_equal(arrays: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    """Bitwise, against torch tensors."""
    import torch

    assert list(arrays) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach().contiguous()
        assert arrays[name].shape == tuple(tensor.shape)
        assert arrays[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        same = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert arrays[name].tobytes() == same, name


def all_dtypes() -> dict[str, Any]:
    import torch

    kinds = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8",
             "uint8", "bool")  # fmt: skip
    key = torch.Generator().manual_seed(0)
    noise = torch.randn(5, 3, 2, generator=key) * 9
    return {f"layer.{kind}": noise.to(getattr(torch, kind)) for kind in kinds}


def views() -> dict[str, Any]:
    """Tensors that share one storage, in every way torch has of looking at it."""
    import torch

    whole = torch.arange(120.0).reshape(2, 3, 4, 5)
    return {
        "whole": whole,
        "transposed": whole.permute(3, 1, 0, 2),
        "columns": whole[..., 1::2],
        "rows": whole[1:, 2:],
        "one": whole[1, 2, 3, 4],
        "one-wide": whole[:, 1:2].transpose(0, 1),
        "parameter": torch.nn.Parameter(whole[0]),
        "channels-last": whole.to(memory_format=torch.channels_last),
    }


# ---- Good files ----------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("zip_form", (True, False), ids=("zip", "legacy"))
@pytest.mark.parametrize("tensors", (all_dtypes, views))
def test_torch_files_are_read_bit_for_bit(tensors, zip_form, tmp_path):
    import torch

    path = tmp_path / "model.pt"
    content = tensors()
    torch.save(OrderedDict(content), path, _use_new_zipfile_serialization=zip_form)
    assert_equal(read_all(path), content)


@pytest.mark.parity
@pytest.mark.parametrize("zip_form", (True, False), ids=("zip", "legacy"))
def test_the_state_dict_of_a_training_checkpoint_is_found(zip_form, tmp_path):
    import argparse

    import torch

    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    everything = {
        "epoch": 3, "global_step": 1000, "pytorch-lightning_version": "2.1",
        "state_dict": layer.state_dict(), "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": argparse.Namespace(rate=1e-4, size=torch.Size([1, 2])),
        "best": np.float64(0.25), "dtype": torch.bfloat16, "device": torch.device("cpu"),
    }  # fmt: skip
    path = tmp_path / "last.ckpt"
    torch.save(everything, path, _use_new_zipfile_serialization=zip_form)
    assert_equal(read_all(path), layer.state_dict())


@pytest.mark.parity
def test_an_only_entry_with_tensors_is_taken_and_two_are_refused(tmp_path):
    import torch

    path, weights = tmp_path / "model.pt", all_dtypes()
    torch.save({"model": weights, "step": 1}, path)
    assert_equal(read_all(path), weights)
    torch.save({"model": weights, "ema": weights}, path)
    with pytest.raises(Refusal, match=r"one entry with them.*model, ema"):
        open_source(path)


@pytest.mark.parity
def test_a_whole_module_is_refused_by_name(tmp_path):
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(Refusal, match=r"asks for torch.nn.modules.linear.Linear: only tensors"):
        open_source(tmp_path / "module.pt")


@pytest.mark.parity
def test_a_flipped_bit_of_a_torch_file_is_found_when_its_storage_is_read(tmp_path):
    import torch

    path = tmp_path / "model.pt"
    shared = torch.arange(200.0)
    torch.save({"a": torch.full((100,), 0.5), "b": shared[10:20], "c": shared[::2]}, path)
    whole = bytearray(path.read_bytes())
    halves, last = np.full(9, 0.5, np.float32), np.arange(190, 200, dtype=np.float32)
    for part, broken in ((halves, "a"), (last, "bc")):
        at = whole.index(part.tobytes()) + 7
        damaged = whole.copy()
        damaged[at] ^= 16
        path.write_bytes(damaged)
        with open_source(path) as source:
            for name in "abc":
                if name in broken:
                    with pytest.raises(Refusal, match="is damaged"):
                        source.read(name)
                else:
                    source.read(name)


@pytest.mark.parity
def test_safetensors_are_read_bit_for_bit(tmp_path):
    import torch
    from safetensors.torch import save_file

    path, content = tmp_path / "model.safetensors", all_dtypes()
    content["f8"] = content["layer.float32"].to(torch.float8_e4m3fn)
    content["f8-wide"] = content["layer.float32"].to(torch.float8_e5m2)
    content["scalar"] = torch.tensor(3.5)
    save_file(content, path, metadata={"format": "pt"})
    arrays = read_all(path)
    assert_equal({name: arrays[name] for name in content}, content)


@pytest.mark.parity
def test_shards_are_one_source(tmp_path):
    import torch
    from safetensors.torch import save_file

    content = {name: tensor for name, tensor in all_dtypes().items() if tensor.dtype != torch.bool}
    names = list(content)
    shards = {"model-1.safetensors": names[:4], "model-2.safetensors": names[4:]}
    for shard, held in shards.items():
        save_file({name: content[name] for name in held}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    arrays = read_all(path)
    assert_equal({name: arrays[name] for name in names}, content)
    with open_component(tmp_path, None) as source:
        assert {info.file.name for info in source.tensors().values()} == set(shards)
        with pytest.raises(Refusal, match="has no tensor 'x'"):
            source.read("x")


def safetensors_of(value: float) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + np.float32(value).tobytes()


@pytest.mark.parametrize(
    "variant, files, chosen",
    [
        (None, ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"), 0),
        (None, ("diffusion_pytorch_model.fp16.safetensors", "model.safetensors"), 1),
        ("fp16", ("model.safetensors", "model.fp16.safetensors"), 1),
        ("fp16", ("model.fp16.bin", "pytorch_model.bin"), 0),
    ],
)
def test_the_file_of_a_component_is_chosen(variant, files, chosen, tmp_path):
    for number, name in enumerate((*files, "config.json", "notes.safetensors")):
        (tmp_path / name).write_bytes(safetensors_of(number))
    with open_component(tmp_path, variant) as source:
        assert source.read("a").tolist() == [chosen]


def test_a_missing_variant_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "model.fp16.safetensors").write_bytes(safetensors_of(1))
    with pytest.raises(Refusal, match=r"has no diffusion_pytorch_model.safetensors or the like"
                                      r".*it has: model.fp16.safetensors"):  # fmt: skip
        open_component(tmp_path, None)
    with pytest.raises(Refusal, match="no part of a file name"):
        open_component(tmp_path, "../x")
    with pytest.raises(Refusal, match="cannot be read as a folder"):
        open_component(tmp_path / "nowhere", None)


# ---- Values and hashes ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_what_is_not_finite_is_counted(name):
    values = np.ones((3, 5), np.float32)
    assert count_nonfinite(values.astype(DTYPES[name])) == 0
    if "float" in name:
        spoilt = np.ones((3, 5), DTYPES[name])
        spoilt[0, 0] = spoilt[2, 4] = np.nan
        assert count_nonfinite(spoilt) == 2
    if name in ("float16", "bfloat16", "float32", "float64"):
        spoilt[1, 1], spoilt[1, 2] = np.inf, -np.inf
        assert count_nonfinite(spoilt.T) == 4


def test_a_large_tensor_is_looked_at_in_parts():
    values = np.zeros(9_000_000, ml_dtypes.bfloat16)
    values[[0, 4_194_303, 4_194_304, -1]] = np.inf
    assert count_nonfinite(values) == 4


def test_hashes_find_what_a_format_without_checksums_cannot(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_of(1))
    done = []
    right = plain_file.sha256(path, lambda *numbers: done.append(numbers))
    assert done == [(path.stat().st_size,) * 2]
    plain_file.check_sha256(path, right.upper())
    path.write_bytes(safetensors_of(2))
    with pytest.raises(Refusal, match="its SHA-256 is"):
        plain_file.check_sha256(path, right)
    with pytest.raises(Refusal, match="64 hexadecimal digits"):
        plain_file.check_sha256(path, right[1:])


def test_members_of_large_zips_are_found_by_their_64_bit_fields(tmp_path):
    path = tmp_path / "model.pt"
    where = forge.GOOD_ZIP.rindex(b"PK\3\4")
    wide = struct.pack("<2H2x", 0x4246, 2) + struct.pack("<2H3Q", 1, 24, 24, 24, where)
    path.write_bytes(forge.torch_zip(forge.GOOD_PICKLE, wide=wide))
    assert read_all(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_file_that_shrinks_while_open_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_of(1))
    with open_source(path) as source:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(Refusal, match="longer before"):
            source.read("a")


def test_limits_are_the_callers(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_of(1))
    with pytest.raises(Refusal, match="at most 20 are read"):
        open_source(path, limits=Limits(header=20))
    with pytest.raises(Refusal, match="over the limit of 3 bytes"):
        open_source(path, limits=Limits(tensor_bytes=3))


# ---- Hostile files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What came of every case of hostile.py, all opened in one watched process."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-W", "error", str(HERE / "hostile_run.py"), str(folder), "3"]
    subprocess.run(command, check=True, timeout=300)
    return {**json.loads((folder / "report.json").read_text()), "folder": folder}


def hostile(report):
    return [case for case in report["cases"] if not case["name"].startswith("mutated")]


def test_each_hostile_file_is_refused_in_one_line_that_names_the_fault(report):
    assert len(hostile(report)) >= 300
    for case in hostile(report):
        assert case["kind"] == "Refusal", case
        assert case["words"] in case["text"] and "\n" not in case["text"], case
        assert case["text"].startswith(str(report["folder"])) or "/dev/zero" in case["text"], case


def test_no_code_of_a_file_runs(report):
    assert report["events"] == []
    assert not (report["folder"] / "code-ran").exists()


def test_hostile_files_take_neither_memory_nor_time(report):
    for case in report["cases"]:
        size = os.path.getsize(case["path"]) if os.path.isfile(case["path"]) else 0
        assert case["grown"] < size + 200 * MB, case
        assert case["seconds"] < 10, case
    assert report["child"] < 200 * MB


def test_mutated_files_are_refused_or_read_as_they_are(report):
    """A zip vouches for every byte that counts, so what is read of one is what was written."""
    mutated = [case for case in report["cases"] if case["name"].startswith("mutated")]
    assert len(mutated) >= 200 and {case["kind"] for case in mutated} <= {"Refusal", "read"}
    for case in mutated:
        if case["kind"] == "read" and case["name"].startswith("mutated-zip"):
            assert case["text"] == report["good"][0]
        assert "\n" not in case["text"]


def test_mutated_pickles_never_break_their_reader():
    """Thousands of them, in one process as confined as the reader's."""
    script = (
        f"import sys, random; sys.path[:0] = [{str(HERE)!r}]\n"
        "import forge, importlib.util\n"
        "from vdm_jax.convert.read import sandbox\n"
        "spec = importlib.util.spec_from_file_location('alone', sandbox.SCRIPT)\n"
        "alone = importlib.util.module_from_spec(spec); spec.loader.exec_module(alone)\n"
        "rng, seen = random.Random(5), set()\n"
        "damaged = [('zip', forge.mutated(forge.GOOD_PICKLE, rng)) for _ in range(4000)]\n"
        "damaged += [('legacy', forge.mutated(forge.GOOD_LEGACY, rng)) for _ in range(2000)]\n"
        "alone.confine(2**30, 60)\n"
        "for form, pickle in damaged: seen.add(tuple(alone.answered(form, pickle))[0])\n"
        "print(*sorted(seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, [b"refused", b"tensors"]), done.stderr


def test_a_confined_process_reaches_nothing():
    """Neither the interpreter nor, behind it, the limits of the process let anything through."""
    script = (
        "import sys, socket, os, subprocess\n"
        f"sys.path.insert(0, {str(sandbox.SCRIPT.parent)!r})\n"
        "import unpickle\n"
        "if sys.argv[1] == 'limits': unpickle.deny = lambda event, arguments: None\n"
        "unpickle.confine(2**28, 5)\n"
        "for reach in (\n"
        "    lambda: open('/etc/passwd'), lambda: socket.socket(), lambda: os.open('/', 0),\n"
        "    lambda: subprocess.run(['/bin/true']),\n"
        "    lambda: __import__('sqlite3'), lambda: bytearray(2**29), lambda: os.pipe(),\n"
        "):\n"
        "    try: reach()\n"
        "    except (unpickle.Refused, OSError, ImportError, MemoryError): continue\n"
        "    sys.stdout.write('reached')\n"
    )
    for layer in ("all", "limits"):
        command = [sys.executable, "-B", "-c", script, layer]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, b""), (layer, done.stdout, done.stderr)
