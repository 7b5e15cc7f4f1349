"""The report: one file, complete, escaped, and honest about what was measured."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.train.report import (
    DARK,
    Report,
    curve,
    flatten,
    loss_picture,
    smooth,
    write_loss_picture,
)

RECORDS = [{"step": s, "loss": float(np.exp(-s / 50) + 0.01)} for s in range(1, 200)] + [
    {"step": 100, "held_out_loss": 0.2},
    {"step": 200, "held_out_loss": 0.1, "loss": None},
]
EMPTY = {"img", "meta", "source", "br", "link"}


class Outline(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def samples(tmp_path):
    """Three animated grids, by step, each of its own grey."""
    files = {}
    for step in (100, 200, 300):
        files[step] = tmp_path / f"step_{step}.webp"
        frames = [Image.new("RGB", (40, 20), (step // 2 + i,) * 3) for i in range(3)]
        frames[0].save(files[step], save_all=True, append_images=frames[1:], lossless=True)
    return files


def full_report(samples):
    return Report(
        name="a <b>run</b> & more",
        facts={"steps": "300", "training time": "4 min"},
        scores="          direction\nmodel <1>    98.4 %",
        records=RECORDS,
        samples=samples,
        events=["2026-11-21 18:00:00  step 20: 2 of the last 10 steps <skipped>"],
        commands={"Sample": 'python -m vdm_jax.sample --prompt "a <red> circle"'},
        config={"_type": "TrainConfig", "optim": {"learning_rate": 3e-4}, "probes": [{"n": 4}]},
        versions={"jax": "0.10.2"},
        credit="(CC) Somebody | example.org",
    )


def test_report_is_one_file_that_fetches_and_runs_nothing(samples, tmp_path):
    full_report(samples).write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    for tag, attributes in outline.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_report_shows_everything_it_was_given(samples):
    text = Outline(full_report(samples).html()).text
    for shown in (
        "a <b>run</b> & more", "training time", "4 min", "model <1>    98.4 %", "step 300",
        '--prompt "a <red> circle"', "optim.learning_rate", "0.0003", "probes.0.n", "0.10.2",
        "(CC) Somebody | example.org", "18:00:00  step 20: 2 of the last 10 steps <skipped>",
    ):  # fmt: skip
        assert shown in text
    assert "TrainConfig" not in text


def test_report_embeds_the_sample_files_last_first(samples):
    outline = Outline(full_report(samples).html())
    pictures = [a for tag, a in outline.tags if tag == "img" and "samples" in a["alt"]]
    assert [picture["alt"] for picture in pictures] == [
        "samples of step 300",
        "samples of step 100",
        "samples of step 200",
    ]
    for picture, step in zip(pictures, (300, 100, 200), strict=True):
        content = base64.b64decode(picture["src"].removeprefix("data:image/webp;base64,"))
        assert content == samples[step].read_bytes()


def test_many_samples_are_thinned(samples):
    many = {step: samples[100] for step in range(0, 1000, 10)}
    shown = re.findall(r"alt=\"samples of step (\d+)\"", Report(name="x", samples=many).html())
    assert shown[0] == "990" and shown[1] == "0" and shown[-1] == "980" and len(shown) == 7


def test_an_empty_report_has_no_empty_sections():
    outline = Outline(Report(name="bare").html())
    assert not [tag for tag, _ in outline.tags if tag in ("section", "img", "table", "dl")]


def test_unknown_sample_kinds_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"notes\.txt"):
        Report(name="x", samples={1: tmp_path / "notes.txt"}).html()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_loss_picture_draws_training_and_held_out_loss():
    both = pixels(loss_picture(RECORDS, "title"))
    train = pixels(loss_picture(RECORDS[:-2], "title"))
    blue = (np.abs(both - (0x25, 0x63, 0xEB)).max(-1) < 8).sum()
    orange = [(np.abs(p - (0xEA, 0x58, 0x0C)).max(-1) < 8).sum() for p in (both, train)]
    assert blue > 500 and orange[0] > 100 and orange[1] == 0
    assert tuple(both[0, 0]) == (255, 255, 255)
    assert tuple(pixels(loss_picture(RECORDS, "t", DARK))[0, 0]) == (0x18, 0x18, 0x1B)


def test_loss_picture_copes_with_little_to_draw(tmp_path):
    for records in ([], RECORDS[:1], [{"step": 1, "loss": None}], RECORDS[-2:]):
        write_loss_picture(tmp_path / "loss.png", records, "title")
        assert pixels((tmp_path / "loss.png").read_bytes()).shape == (520, 1040, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png"]


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(Refusal, match=r"cannot write .*No such file"):
        write_loss_picture(tmp_path / "none" / "loss.png", [], "title")


def test_curve_takes_finite_numbers_only():
    loss = curve(RECORDS, "loss")
    assert len(loss.step) == 199 and loss.step[-1] == 199
    np.testing.assert_array_equal(curve(RECORDS, "held_out_loss").value, [0.2, 0.1])
    assert len(curve(RECORDS, "nothing").step) == 0


def test_smoothing_keeps_lines_and_quiets_noise():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 4.0), 3.0)
    line = np.arange(100.0)
    np.testing.assert_allclose(smooth(line, 4.0)[15:-15], line[15:-15])
    noise = np.random.default_rng(0).normal(size=2000)
    assert smooth(noise, 10.0).std() < 0.25
    for few in (1, 2, 3):
        assert smooth(np.ones(few), 0.05).shape == (few,)


def test_flatten_names_every_leaf():
    config = {"a": {"b": None, "_type": "X"}, "c": [1, 2], "d": [], "e": [{"f": True}, {"f": 2}]}
    assert dict(flatten(config)) == {
        "a.b": "none", "c": "1, 2", "d": "none", "e.0.f": "True", "e.1.f": "2",
    }  # fmt: skip
