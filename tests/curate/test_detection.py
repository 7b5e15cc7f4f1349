"""Detections as scores: of a network in ONNX that is written here byte by byte, and of a function.

The network finds three things in every picture: how sure it is of the first is the mean of red, the
second is a box of known size, the third reaches out of the picture.
"""

import numpy as np
import pytest

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.detection import Detection, Onnx, fitted, of_boxes
from vdm_jax.curate.imported import Imported
from vdm_jax.curate.rules import Rule
from vdm_jax.curate.stage import Clip

SIDE = 32
ROWS = np.array([[4, 12, 12, 20, 0, 0], [8, 8, 24, 16, 0.9, 2], [24, 16, 90, 90, 0.8, 2]], "<f4")
RED = np.array([1, 0, 0], "<f4").reshape(1, 3, 1, 1)
SLOPE = np.array([[0, 0, 0, 0, 1, 0], [0] * 6, [0] * 6], "<f4")
FLOAT, INT64 = 1, 7


def field(number, value):
    """A field of protobuf: an int, or bytes with their length before them."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def constant(name, array):
    kind = FLOAT if array.dtype.kind == "f" else INT64
    sizes = b"".join(field(1, size) for size in array.shape)
    return sizes + field(2, kind) + field(8, name) + field(9, array.tobytes())


def value(name, shape):
    sizes = b"".join(field(1, field(1, s) if isinstance(s, int) else field(2, s)) for s in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, sizes)))


def node(kind, inputs, output):
    flat = field(5, field(1, "keepdims") + field(3, 0) + field(20, 2))
    names = b"".join(field(1, name) for name in inputs)
    return names + field(2, output) + field(4, kind) + flat * (kind == "ReduceMean")


def network(path, shape=(1, 3, SIDE, SIDE), width=6):
    """rows + slope * 3 * mean(red * picture)."""
    nodes = [
        node("Mul", ["picture", "red"], "reds"),
        node("ReduceMean", ["reds", "axes"], "mean"),
        node("Mul", ["mean", "slope"], "steep"),
        node("Add", ["steep", "rows"], "found"),
    ]
    constants = [
        constant("red", 3 * RED),
        constant("axes", np.array([1, 2, 3], "<i8")),
        constant("slope", SLOPE[None, :, :width].copy()),
        constant("rows", ROWS[None, :, :width].copy()),
    ]
    graph = b"".join(field(1, each) for each in nodes) + field(2, "g")
    graph += b"".join(field(5, each) for each in constants)
    graph += field(11, value("picture", shape)) + field(12, value("found", (1, 3, width)))
    opset = field(1, "") + field(2, 18)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, opset))
    return path


@pytest.fixture
def detector(tmp_path):
    return network(tmp_path / "net.onnx")


def clip(*reds, height=32, width=64):
    frames = np.zeros((len(reds), height, width, 3), np.uint8)
    for frame, red in zip(frames, reds, strict=True):
        frame[..., 0] = red
    return Clip(file="a", start=0, fps=24.0, frames=frames)


def scores(config, weights, clip):
    stage = config.build(weights)
    stage.setup()
    (scored,) = stage.process(clip)
    assert scored.scores.keys() == stage.columns.keys()
    return scored.scores


def test_boxes_of_a_network_become_scores(detector):
    """A frame of 32x64 fills the middle half of the input, at half its size."""
    given = {"detector": detector}
    found = scores(Detection(name="thing", detector=Onnx()), given, clip(0, 255, 0))
    second = 32 * 16 / (32 * 64)  # in pixels of the frame: 16..48, 0..16
    third = 16 * 16 / (32 * 64)  # 48..64, 16..32: what lies in it
    first = 16 * 16 / (32 * 64)
    assert second > first == third
    assert found == pytest.approx(
        {"thing_count": 3, "thing_area": 100 * second, "thing_frames": 100}
    )
    mean = (16 * 255 + 16 * 114) / SIDE / 255  # of red, with grey around it
    sure = Detection(name="red", detector=Onnx(), kinds=(0,), sure=mean - 0.01)
    assert scores(sure, given, clip(0, 255, 0)) == pytest.approx(
        {"red_count": 1, "red_area": 100 * first, "red_frames": 100 / 3}
    )
    none = Detection(name="none", detector=Onnx(), kinds=(1,))
    assert set(scores(none, given, clip(0, 255, 0)).values()) == {0.0}


def test_what_a_network_is_shown():
    frame = np.full((20, 10, 3), 200, np.uint8)
    picture, scale, corner = fitted(frame, 40, 60)
    assert scale == 2 and corner.tolist() == [20, 0]
    assert (picture[:, 20:40] == 200).all() and (picture[:, :20] == 114).all()
    assert of_boxes(np.array([[-5.0, 0, 5, 10], [8, 8, 8, 9]]), 20, 10).tolist() == [0.25, 0.0]


def test_other_networks_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    network(tmp_path / "grey.onnx", shape=(1, 1, SIDE, SIDE))
    network(tmp_path / "narrow.onnx", width=5)
    for name, message in (
        ("text", "is no network in ONNX that runs here"),
        ("grey", r"takes tensor\(float\) \[1, 1, 32, 32\]; wanted is float \(1, 3, h, w\)"),
        ("narrow", r"gives \(1, 3, 5\); wanted is \(1, n, 6\)"),
    ):
        stage = Detection(name="x", detector=Onnx()).build({"detector": tmp_path / f"{name}.onnx"})
        with pytest.raises(Refusal, match=message):
            stage.setup()


MODULE = """
import numpy as np
from vdm_jax.curate.detection import Found

class Faces:
    def detect(self, frame):
        red = frame[..., 0] > 0
        return Found(np.array([red.mean()]), np.array([1.0]), np.array([0]))
"""


def test_masks_of_a_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "found_by_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = Detection(name="face", detector=Imported(name="face", make="found_by_user:Faces"))
    whole = CurateConfig(stages=(config,), rules=(Rule("faces", "face_area < 20"),))
    assert configs.from_json(configs.to_json(whole)) == whole
    (stage,) = whole.build()
    assert "face_frames" in stage.columns
    half = clip(0, 255, 0)
    half.frames[1, :, :48] = 0
    assert scores(config, {}, half)["face_area"] == 25.0
    with pytest.raises(Refusal, match="Detection needs --weights net=PATH: an ONNX file"):
        CurateConfig(stages=(Detection(name="x", detector=Onnx(weights="net")),), rules=()).build()
