"""Pickles of arrays are read, and run nothing."""

import pickle

import numpy as np
import pytest

from vdm_jax.convert.read.arrays import read_arrays
from vdm_jax.core.refusal import Refusal

ARRAY = np.arange(6, dtype="float32").reshape(2, 3)


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize("home", [b"numpy.core.", b"numpy._core."])
def test_trees_of_arrays_of_old_and_new_numpy_are_read_by_path(path, home):
    data = pickle.dumps({"a": {"b": ARRAY}, "c": 2 * ARRAY}, protocol=3)
    path.write_bytes(data.replace(b"numpy._core.", home))
    got = read_arrays(path)
    assert list(got) == ["a/b", "c"]
    np.testing.assert_array_equal(got["a/b"], ARRAY)
    np.testing.assert_array_equal(got["c"], 2 * ARRAY)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (pickle.dumps({"a": Hostile()}), r"names builtins\.print"),
        (pickle.dumps(ARRAY, protocol=0), "names _codecs"),
        (pickle.dumps({"a": [ARRAY]}), "holds list at a, not arrays"),
        (pickle.dumps({"a": ARRAY.astype(int)}), "holds ndarray at a, not arrays"),
        (pickle.dumps({"a": ARRAY})[:-30], "is no pickle of arrays"),
        (b"<html>", "is no pickle of arrays"),
    ],
)
def test_anything_else_is_refused(path, content, fault, capsys):
    path.write_bytes(content)
    with pytest.raises(Refusal, match=fault):
        read_arrays(path)
    assert capsys.readouterr().out == ""
