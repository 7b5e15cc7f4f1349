"""What is said of clips: by templates, by the user's own code, and where the view goes."""

import cv2
import numpy as np
import pytest
from curate import planted

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import work
from vdm_jax.curate.camera import Camera
from vdm_jax.curate.captions import Captions, Template
from vdm_jax.curate.clock import Clock
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.imported import Imported
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.stage import SIDECAR, Clip, Span, chain
from vdm_jax.curate.work import Task

FPS = 24.0
MODULE = """
class Captioner:
    def __init__(self, folder):
        self.word = (folder / "word.txt").read_text()

    def caption(self, clip):
        frame = clip.spread(3)[1]
        return f"  {self.word}\\nof {frame.mean():.0f} "

class Summary:
    def merge(self, captions):
        return " / ".join(f"{name}={text}" for name, text in captions.items())

def silent():
    class Silent:
        def caption(self, clip):
            return " "
    return Silent()

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "said_by_user.py").write_text(MODULE)
    (tmp_path / "word.txt").write_text("grey")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def clip(frames, **scores):
    return Clip(file="a.mp4", start=0, fps=FPS, frames=frames, scores=scores)


def viewed(pan=0.0, tilt=0.0, zoom=1.0, frames=37, disc=0):
    """A window that goes over a large picture: pixels a frame, and how much nearer each frame."""
    rng = np.random.default_rng(4)
    h, w = planted.HEIGHT, planted.WIDTH
    large = planted.picture(rng, 3 * h, 3 * w)
    out = np.empty((frames, h, w, 3), np.uint8)
    for t in range(frames):
        scale = zoom**t
        x, y = w + pan * t, h - tilt * t
        middle = np.array([x + w / 2, y + h / 2])
        shift = np.array([w / 2, h / 2]) - scale * middle
        matrix = np.float32([[scale, 0, shift[0]], [0, scale, shift[1]]])
        out[t] = cv2.warpAffine(large, matrix, (w, h), flags=cv2.INTER_LINEAR)
        if disc:
            cv2.circle(out[t], (30 + 4 * t, 70), disc, (250, 20, 20), -1, cv2.LINE_AA)
    return out


def camera(frames):
    stage = Camera().build()
    stage.setup()
    (scored,) = stage.process(clip(frames))
    return scored.scores


@pytest.mark.parametrize(
    ("moves", "wanted"),
    [
        ({"pan": 1.0}, (1, 0, 0)),
        ({"pan": -1.5, "disc": 20}, (-1.5, 0, 0)),
        ({"tilt": 0.6}, (0, 0.6, 0)),
        ({"zoom": 1.004}, (0, 0, 100 * (1.004**12 - 1))),
        ({"zoom": 1 / 1.003}, (0, 0, 100 * (1.003**-12 - 1))),
        ({}, (0, 0, 0)),
    ],
)
def test_where_the_view_goes(moves, wanted):
    scores = camera(viewed(**moves))
    pan, tilt, zoom = wanted
    share = 12 * 100 / planted.HEIGHT  # half a second, in % of the shorter side
    assert scores["pan"] == pytest.approx(pan * share, abs=0.4)
    assert scores["tilt"] == pytest.approx(tilt * share, abs=0.4)
    assert scores["zoom"] == pytest.approx(zoom, abs=0.3)


def test_a_clip_too_short_to_tell_has_no_view():
    assert camera(viewed(pan=1.0, frames=12)) == {}


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({}, "A video of 1 second."),
        ({"motion": 1.0, "brightness": 10.0}, "A video of 1 second with hardly any motion. "
         "It is dark."),
        ({"motion": 30.0, "pan": 3.0, "tilt": -2.0, "zoom": -1.5, "brightness": 90.0, "text": 4.0},
         "A video of 1 second with much motion. The view moves right and down and zooms out. "
         "It is bright. Text is shown."),
        ({"motion": 2.0, "pan": 0.5, "tilt": 0.2, "zoom": 8.0, "brightness": 50.0, "text": 0.0},
         "A video of 1 second with some motion. The view zooms in."),
    ],
)  # fmt: skip
def test_templates_say_what_scores_bear_out(scores, wanted):
    (said,) = Captions(writers=(Template(),)).build({}).process(clip(viewed(frames=24), **scores))
    assert said.captions == {"template": wanted}


def test_captions_by_code_of_the_user(module):
    config = Captions(
        writers=(
            Imported(name="middle", make="said_by_user:Captioner", weights="words"),
            Imported(name="silent", make="said_by_user:silent"),
        ),
        merge=Imported(name="summary", make="said_by_user:Summary"),
    )
    whole = CurateConfig(stages=(config,), rules=())
    assert configs.from_json(configs.to_json(whole)) == whole
    with pytest.raises(Refusal, match="Captions needs --weights words=PATH: what said_by_user:Cap"):
        whole.build()
    stage = config.build({"words": module})
    stage.setup()
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    frames[4] = 77
    for given, summary in (
        ({}, "middle=grey of 77"),
        ({SIDECAR: "x"}, "sidecar=x / middle=grey of 77"),
    ):
        (said,) = stage.process(Clip(file="a", start=0, fps=FPS, frames=frames, captions=given))
        assert said.captions == {**given, "middle": "grey of 77", "summary": summary}
        assert next(iter(said.captions)) == ("sidecar" if given else "middle")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("no_such_module:f", "cannot be imported .*no_such_module"),
        ("said_by_user:nothing", "cannot be imported .*nothing"),
        ("said_by_user:number", "is a int, no function"),
    ],
)
def test_code_that_is_not_there_is_refused_before_work_begins(module, make, message):
    stage = Captions(writers=(Imported(name="x", make=make),)).build({})
    with pytest.raises(Refusal, match=message):
        stage.setup()


def test_what_is_no_writer_is_refused():
    with pytest.raises(Refusal, match=r"must be \"module:function\", got 'os\.system'"):
        Imported(name="x", make="os.system")
    with pytest.raises(Refusal, match="two captions are called 'sidecar'"):
        Captions(writers=(Template(name="sidecar"),))
    with pytest.raises(Refusal, match="two captions are called 'template'"):
        Captions(writers=(Template(),), merge=Template())


def test_the_users_caption_comes_with_the_span_and_stands_first(tmp_path):
    rng = np.random.default_rng(2)
    source = planted.Planted(tmp_path)
    source.write("a", planted.scene(rng, 30))
    config = CurateConfig(
        size=64, rules=(), stages=(Motion(), Camera(), Captions(writers=(Template(),)))
    )
    look = Task(
        kind="look", span=Span(file="a.mp4", caption="a disc"), root=str(tmp_path),
        folder=str(tmp_path), config=configs.to_json(config), patience=60.0,
    )  # fmt: skip
    (span,) = work.done(look)["spans"]
    cut = Task(**{**vars(look), "kind": "cut", "span": Span(**span)})
    (row,) = work.done(cut)["clips"]
    assert [*row["captions"]] == ["sidecar", "template"] and row["captions"]["sidecar"] == "a disc"
    assert row["captions"]["template"].startswith("A video of 1 second with ")


def test_stages_in_a_row_hand_on_what_they_found():
    stages = [Motion().build(), Camera().build(), Captions(writers=(Template(),)).build({})]
    for stage in stages:
        stage.setup()
    (said,) = chain(stages, [clip(viewed(pan=2.0))], Clock())
    assert (
        said.captions["template"] == "A video of 2 seconds with much motion. The view moves right."
    )
