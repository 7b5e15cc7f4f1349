"""The verb, end to end: on tiny models and networks, with real files and processes."""

import json

import jax
import numpy as np
import pytest
from evaluate import parts
from flax import nnx

from vdm_jax.core import video, weights
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About
from vdm_jax.data.record import pack, unpack
from vdm_jax.evaluate import measures
from vdm_jax.evaluate.__main__ import main as evaluate
from vdm_jax.evaluate.rows import Batch
from vdm_jax.metrics.frames import IDENTICAL_DB, psnr
from vdm_jax.metrics.fvd import i3d_logits
from vdm_jax.metrics.motion import flicker
from vdm_jax.sample.network import read

COUNT = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with models/i3d, a dataset, and a model."""
    folder = tmp_path_factory.mktemp("made")
    parts.model(folder / "models/i3d", parts.I3D_TINY)
    parts.model(folder / "model", parts.MODEL)
    parts.shards(folder / "real", COUNT)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def result(output):
    rows = json.loads((output / "results.json").read_text())["rows"]
    return {(row["title"], row["n"]): row["estimates"] for row in rows}


ARGS = ["--real", "real", "--model", "ours=model", "--baseline", "copy", "linear"]
METRICS = ["--protocol.metrics", "fvd", "kvd", "psnr", "flicker"]


@pytest.fixture(scope="module")
def first(made, tmp_path_factory):
    """(output, its results) of the whole evaluation."""
    output = tmp_path_factory.mktemp("first") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    return output, result(output)


def test_a_table_a_page_and_the_clips_that_were_drawn(first):
    output, found = first
    half = COUNT // 2
    sets = ["ours", "copy the first frame", "extrapolate the first two frames"]
    assert set(found) == {
        *((title, n) for title in sets for n in (COUNT, half)),
        ("other real clips", half),
        ("real clips", COUNT),
    }
    held = found["copy the first frame", COUNT]
    assert held["flicker"]["value"] == 0 and held["fvd"]["value"] > 0
    assert found["real clips", COUNT]["fvd"] is None
    for estimates in found.values():
        for estimate in filter(None, estimates.values()):
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    page = (output / "report.html").read_text()
    assert page.count("data:image") == 2 and "rank" in page and "nobody" in page
    drawn = sorted((output / "clips/ours").glob("*.mp4"))
    assert len(drawn) == COUNT


def drawn(output, title="ours"):
    """The videos of a folder by the number of the clip that each was drawn from."""
    paths = (output / "clips" / title).glob("*.mp4")
    return {int(path.stem.removeprefix("clip-").removesuffix("+0")): path for path in paths}


def test_what_is_measured_is_what_lies_on_disk(first):
    """PSNR by hand, of each video drawn and the real clip that it is named after."""
    output, found = first
    real = [_stored(clip) for clip in parts.clips(COUNT, seed=1)]
    each = [psnr(video.read(path).frames, real[i]).mean() for i, path in drawn(output).items()]
    assert len(each) == COUNT and np.std(each) > 0.01
    assert found["ours", COUNT]["psnr"]["value"] == pytest.approx(np.mean(each), abs=1e-9)


def test_real_beside_real_shares_no_clip(first):
    """The distance of a set from itself would be nothing."""
    _, found = first
    assert found["other real clips", COUNT // 2]["fvd"]["value"] > 1e-3


def _stored(clip):
    """As shards keep it."""
    return np.stack(unpack(pack("a", 0, clip), "a", 0, range(len(clip))))


def test_the_same_command_draws_and_measures_nothing_again(first, capsys):
    output, found = first
    before = {path: path.stat().st_mtime_ns for path in output.parent.rglob("*.[mn]p[4z]")}
    report = output / "report.html"
    report.unlink()
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    after = {path: path.stat().st_mtime_ns for path in output.parent.rglob("*.[mn]p[4z]")}
    assert after == before and result(output) == found and report.exists()


def test_a_clip_that_is_lost_alone_is_drawn_again_to_the_same_bytes(first):
    output, found = first
    clip = drawn(output)[5]
    content = clip.read_bytes()
    clip.unlink()
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    assert clip.read_bytes() == content and result(output) == found


def test_a_clip_that_is_replaced_is_measured_anew(first, made, tmp_path):
    output, found = first
    one, other = drawn(output)[2], drawn(output)[3]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    assert result(output)["ours", COUNT]["psnr"] != found["ours", COUNT]["psnr"]
    one.write_bytes(content[:300])
    with pytest.raises(Refusal, match="delete it, and the same command draws it again"):
        evaluate([*ARGS, *METRICS, "--output", str(output), "--statistics", str(tmp_path)])
    one.write_bytes(content)
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    assert result(output) == found


def test_statistics_that_are_damaged_are_computed_again(first):
    output, found = first
    path = next((output.parent / "statistics/i3d").glob("*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    assert result(output) == found


def test_a_folder_of_its_clips_gets_the_same_numbers(first, tmp_path):
    """They are named after the windows that they were drawn from, so are compared with these."""
    output, found = first
    again = tmp_path / "again"
    args = ["--real", "real", "--fake", f"ours={output / 'clips/ours'}", "--output", str(again)]
    assert evaluate([*args, *METRICS]) == 0
    ours = result(again)["ours", COUNT]
    for name in ("fvd", "kvd", "psnr", "flicker"):
        assert ours[name]["value"] == pytest.approx(found["ours", COUNT][name]["value"], rel=1e-5)
    notes = json.loads((again / "results.json").read_text())["notes"]
    assert "the real clips are those that the videos of ours are named after" in notes


def test_copies_are_perfect_at_any_size_and_wherever_they_lie(tmp_path):
    """In folders of classes that have the same names inside, larger than what is compared."""
    for kind in "ab":
        for number, clip in enumerate(parts.clips(4, seed=ord(kind))):
            large = clip.repeat(2, 1).repeat(2, 2)
            for side in ("real", "fake"):
                parts.videos(tmp_path / side / kind, [large], names=[str(number)])
    args = ["--real", str(tmp_path / "real"), "--fake", f"copy={tmp_path / 'fake'}"]
    args += ["--protocol.height", "24", "--protocol.width", "20", "--protocol.metrics", "psnr"]
    assert evaluate([*args, "ssim", "--output", str(tmp_path / "out")]) == 0
    copy = result(tmp_path / "out")["copy", 8]
    assert copy["psnr"]["value"] == IDENTICAL_DB and copy["ssim"]["value"] == pytest.approx(1)


def test_other_sets_beside_it_change_nothing_of_a_model(first, tmp_path):
    """A folder named after some of the real clips changes which of them are taken."""
    output, found = first
    few = parts.videos(
        tmp_path / "few", parts.clips(5), names=[f"clip-{i}" for i in (6, 1, 0, 4, 3)]
    )
    before = {path: path.stat().st_mtime_ns for path in (output / "clips").rglob("*.mp4")}
    args = ["--fake", f"few={few}", "--protocol.num-clips", "5", "--output", str(output)]
    assert evaluate([*ARGS, *METRICS, *args]) == 0
    ours = result(output)["ours", 5]["psnr"]["value"]
    real = [_stored(clip) for clip in parts.clips(COUNT, seed=1)]
    paths = drawn(output)
    each = [psnr(video.read(paths[i]).frames, real[i]).mean() for i in (6, 1, 0, 4, 3)]
    assert ours == pytest.approx(np.mean(each), abs=1e-9)
    assert before == {path: path.stat().st_mtime_ns for path in (output / "clips").rglob("*.mp4")}
    assert evaluate([*ARGS, *METRICS, "--output", str(output)]) == 0
    assert result(output) == found


def test_repeated_runs_differ_and_are_averaged(tmp_path):
    args = ["--real", "real", "--model", "model", "--protocol.metrics", "flicker"]
    args += ["--protocol.repeats", "3", "--protocol.num-clips", "4"]
    assert evaluate([*args, "--output", str(tmp_path / "a")]) == 0
    rows = json.loads((tmp_path / "a/results.json").read_text())["rows"]
    (ours,) = [row for row in rows if row["title"] == "model"]
    runs = sorted((tmp_path / "a/clips/model").iterdir())
    values = [
        np.mean([flicker(video.read(path).frames) for path in run.glob("*.mp4")]) for run in runs
    ]
    assert ours["runs"] == len(set(values)) == 3
    assert ours["estimates"]["flicker"]["value"] == pytest.approx(np.mean(values), abs=1e-9)
    error = np.std(values, ddof=1) / 3**0.5
    assert ours["estimates"]["flicker"]["error"] == pytest.approx(error) and error > 1e-3


def test_what_was_measured_is_not_taken_for_something_else(first, made, tmp_path):
    """Another model, another precision: with the statistics of the first beside them."""
    output, found = first
    parts.model(tmp_path / "other", parts.MODEL, seed=1)
    common = ["--real", "real", *METRICS, "--statistics", str(output.parent / "statistics")]
    assert evaluate([*common, "--model", f"ours={tmp_path / 'other'}", "--output",
                     str(tmp_path / "a")]) == 0  # fmt: skip
    assert evaluate([*common, "--model", "ours=model", "--dtype", "bfloat16", "--output",
                     str(tmp_path / "b")]) == 0  # fmt: skip
    for folder in "ab":
        ours = result(tmp_path / folder)["ours", COUNT]
        assert ours["psnr"]["value"] != found["ours", COUNT]["psnr"]["value"]
        assert ours["fvd"]["value"] != found["ours", COUNT]["fvd"]["value"]


PROCESS = """
import os, sys
import jax
jax.config.update("jax_platforms", "cpu")
from vdm_jax.evaluate.__main__ import main
folder, output, place, index = sys.argv[1:]
os.chdir(folder)
main(["--real", "real", "--model", "ours=model", "--baseline", "copy", "linear",
      "--protocol.metrics", "fvd", "kvd", "psnr", "flicker", "--output", output,
      "--processes", "2", "--process", index, "--coordinator", place])
"""


def test_two_processes_find_what_one_finds(first, made, tmp_path, two_processes):
    _, found = first
    two_processes(PROCESS, str(made), str(tmp_path / "two"))
    both = result(tmp_path / "two")
    assert both.keys() == found.keys()
    for title, estimates in both.items():
        for name, estimate in estimates.items():
            one = found[title][name]
            assert (estimate is None) == (one is None)
            if estimate is not None:
                assert estimate["value"] == pytest.approx(one["value"], rel=1e-4, abs=1e-5)


def test_eight_devices_see_what_one_sees(made):
    (given,) = weights.given([f"i3d={made / 'models/i3d'}"])
    network = measures.NETWORKS["i3d"](given)
    clips = np.stack(parts.clips(3, seed=2))
    rows = network(Batch(clips, [About("", "", 8.0)] * 3, None))["row"]
    graphdef, params = read(made / "models/i3d", parts.I3D_TINY)
    alone = jax.jit(lambda params, clips: i3d_logits(nnx.merge(graphdef, params), clips))
    wanted = alone(params, clips)
    assert network.size == 8 and wanted.sharding.num_devices == 1
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ([], "nothing is evaluated"),
        (["--fake", "nowhere", "--real", "real"], "nowhere: is no folder"),
        (["--model", "nowhere", "--real", "real"], "nowhere is no directory"),
        (["--model", "model"], "--real is missing: .* no run that held some out"),
        (["--real", "real", "--model", "model", "--protocol.num-clips", "99"],
         "real clips: 8 clips are there, the protocol takes 99"),
        (["--real", "real", "--model", "model", "--protocol", "best"], "there are plain, stylegan"),
        (["--real", "real", "--model", "model", "--protocol.metrics", "fvb"], "fvb: there are fvd"),
        (["--real", "real", "--model", "model", "--protocol.metrics", "cd_fvd"],
         "videomae is missing: python -m vdm_jax.convert.videomae"),
        (["--real", "real", "--model", "model", "--weights", "i3d=model"],
         "holds a Pretrained; wanted is what python -m vdm_jax.convert.i3d"),
        (["--real", "real", "--model", "model", "--protocol.num-frames", "8"],
         "FVD takes videos of 9 frames or more, got 8"),
        (["--real", "real", "--model", "real clips=model"], "a title of this evaluation's own"),
        (["--real", "real", "--model", "model", "--statistics", "model/config.json"],
         "cannot be made: File exists|Not a directory"),
        (["--real", "real", "--baseline", "still"], "--baseline still: there are copy, linear"),
        (["--real", "real", "--baseline", "copy"], "no size is known: say --protocol.height"),
        (["--real", "real", "--model", "model", "--split", "best"], "no split 'best'"),
        (["--real", "real", "--model", "a=model", "a=real"], "two are called 'a'"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused_in_one_line(args, wanted, tmp_path):
    with pytest.raises(Refusal, match=wanted) as refusal:
        evaluate([*args, "--output", str(tmp_path / "out")])
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_generated_videos_that_cannot_be_compared_are_refused(tmp_path):
    clips = parts.clips(6)
    few = parts.videos(tmp_path / "few", clips[:3])
    mixed = parts.videos(tmp_path / "mixed", [*clips[:5], clips[5][:, :8]])
    strange = parts.videos(tmp_path / "strange", clips, names="abcdef")
    output = ["--output", str(tmp_path / "out"), "--real", "real"]
    with pytest.raises(Refusal, match="3 clips; at least 4"):
        evaluate(["--fake", str(few), *output])
    with pytest.raises(Refusal, match=r"clip-0\.mp4 is 16x16, clip-5\.mp4 is 16x8"):
        evaluate(["--fake", str(mixed), *output])
    with pytest.raises(Refusal, match="PSNR compares clip by clip: the videos of strange"):
        evaluate(["--fake", str(strange), *output, "--protocol.metrics", "psnr"])
    with pytest.raises(Refusal, match="has 9 frames, 16 are compared"):
        evaluate(["--fake", str(strange), *output, "--protocol.num-frames", "16"])


def test_a_model_that_draws_no_numbers_is_named(tmp_path):
    folder = parts.model(tmp_path / "bad", parts.MODEL, spoilt=True)
    with pytest.raises(Refusal, match=r"bad: the clip of clip-.* has frames that are no numbers"):
        evaluate(["--real", "real", "--model", str(folder), "--output", str(tmp_path / "out")])


def test_an_output_of_another_model_is_not_mixed_up(first, tmp_path):
    output, _ = first
    with pytest.raises(Refusal, match=r"clips/ours: holds clips .* with other settings; give"):
        evaluate([*ARGS, *METRICS, "--output", str(output), "--draw.num-steps", "2"])
    note = output / "clips/ours/drawn.json"
    content = note.read_bytes()
    for damage, why in ((b"{", "is damaged"), (None, "holds videos and no drawn.json")):
        note.unlink() if damage is None else note.write_bytes(damage)
        with pytest.raises(Refusal, match=why):
            evaluate([*ARGS, *METRICS, "--output", str(output)])
    note.write_bytes(content)
