"""TorchScript archives give their tensors, and their programs stay unread."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from vdm_jax.convert.read.source import open_source
from vdm_jax.core.refusal import Refusal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Scaled(torch.nn.Module):
    """Layers in a list and a buffer, views of one storage, and attributes that are no tensors."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)])
        self.register_buffer("whole", torch.arange(12.0).reshape(3, 4))
        self.register_buffer("turned", self.whole.T)
        self.names, self.steps, self.factor = ["a"], [1, 2], 2.0

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.factor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pt"


def with_pickle(path, content):
    """The archive at `path` with other contents of data.pkl."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, content if name.endswith("/data.pkl") else data)


def test_tensors_are_named_by_their_modules(path):
    module = Scaled().eval()
    torch.jit.script(module).save(path)
    wanted = module.state_dict()
    with open_source(path) as source:
        assert source.tensors().keys() == wanted.keys()
        assert "layers.1.num_batches_tracked" in wanted
        for name, tensor in wanted.items():
            np.testing.assert_array_equal(source.read(name), tensor.numpy())


def test_a_flipped_bit_is_found(path):
    torch.jit.script(Scaled().eval()).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(np.arange(12, dtype="float32").tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    with open_source(path) as source, pytest.raises(Refusal, match="is damaged"):
        source.read("whole")


def test_a_program_without_tensors_is_refused(path):
    torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(Refusal, match="whose modules hold no tensors"):
        open_source(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (pickle.dumps({"a": 1}, 2), "TorchScript program, and holds no module"),
        (b"\x80\x02c__torch__\nM\n)\x81.", "a module that is no table of names"),
        (b"\x80\x02c__torch__\nM\n)\x81}K\x01K\x02sb.", "a module that is no table of names"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "asks for os.system"),
        (b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "is malformed"),
    ],
    ids=["dict", "bare", "number", "code", "loop"],
)
def test_anything_else_under_its_name_is_refused(path, content, fault):
    torch.jit.script(Scaled().eval()).save(path)
    with_pickle(path, content)
    with pytest.raises(Refusal, match=fault) as refusal:
        open_source(path)
    assert "\n" not in str(refusal.value)
