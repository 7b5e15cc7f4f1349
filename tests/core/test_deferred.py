"""Arrays read as they are written: the same files as from arrays, in a handful of memory."""

import jax
import numpy as np
import pytest

from vdm_jax.core import checkpoint, deferred
from vdm_jax.core.deferred import Deferred
from vdm_jax.core.refusal import Refusal


def array(seed, shape=(3, 5)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def later(seed, log, shape=(3, 5)):
    def read():
        log.append(seed)
        return array(seed, shape)

    return Deferred(shape, np.dtype(np.float32), read)


def test_deferred_arrays_are_stored_as_arrays_are(tmp_path):
    log = []
    tree = {"a": {"x": later(1, log), "y": array(2)}, "b": later(3, log, ())}
    checkpoint.save_weights(tmp_path / "m", "{}", tree, {"note.txt": "hello"})
    assert sorted(log) == [1, 3]
    stored = checkpoint.stored_weights(tmp_path / "m")
    assert stored.kinds == {"a/x": "float32[3,5]", "a/y": "float32[3,5]", "b": "float32[]"}
    held = stored.read(["a/x", "b"])
    np.testing.assert_array_equal(held["a/x"], array(1))
    np.testing.assert_array_equal(held["b"], array(3, ()))
    abstract = jax.tree.map(
        lambda kind: jax.ShapeDtypeStruct(kind.shape, np.float32),
        tree,
        is_leaf=lambda x: isinstance(x, Deferred),
    )
    loaded = checkpoint.load_weights(tmp_path / "m", abstract)
    np.testing.assert_array_equal(np.asarray(loaded["a"]["x"]), array(1))
    assert (tmp_path / "m" / "note.txt").read_text() == "hello"


def test_few_are_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(deferred, "AT_ONCE", 150)  # two arrays of 60 bytes
    parts = list(deferred._parts([later(i, []) for i in range(5)]))
    assert parts == [[0, 1], [2, 3], [4]]
    log = []
    tree = {f"x{i}": later(i, log) for i in range(5)}
    checkpoint.save_weights(tmp_path / "m", "{}", tree)
    held = checkpoint.stored_weights(tmp_path / "m").read(list(tree))
    assert log == [0, 1, 2, 3, 4]
    for i in range(5):
        np.testing.assert_array_equal(held[f"x{i}"], array(i))


def test_a_refusal_on_reading_leaves_nothing(tmp_path):
    def read():
        raise Refusal("the tensor is broken")

    tree = {"x": later(0, []), "y": Deferred((2,), np.dtype(np.float32), read)}
    with pytest.raises(Refusal, match="the tensor is broken"):
        checkpoint.save_weights(tmp_path / "m", "{}", tree)
    assert not list(tmp_path.iterdir())
