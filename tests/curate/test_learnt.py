"""Scores of networks that users bring: a tiny CLIP and tiny aesthetic heads, against torch."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from curate import planted
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vdm_jax.convert import aesthetic as convert_aesthetic
from vdm_jax.convert import whole_clip
from vdm_jax.core import command, weights
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.curate import __main__ as curate
from vdm_jax.curate.aesthetic import Aesthetic
from vdm_jax.curate.config import CurateConfig, settings
from vdm_jax.curate.similarity import Similarity
from vdm_jax.curate.stage import SIDECAR, Clip, packed, unpacked

LETTERS = "!abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [*LETTERS, *(c + "</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
END, WIDTH = len(VOCABULARY) - 1, 12


def published(folder, end, name):
    """A random CLIP as transformers publishes one. end: what its config says ends a text."""
    folder.mkdir()
    words = {word: i for i, word in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": len(VOCABULARY)}
    picture = {"hidden_size": 20, "intermediate_size": 28, "image_size": 32, "patch_size": 8}
    torch.manual_seed(3)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, **sizes, "max_position_embeddings": 20, "eos_token_id": end},
            vision_config={**picture, **sizes},
            projection_dim=WIDTH,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.config.architectures = ["CLIPModel"]
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    state = {key: array.contiguous() for key, array in model.state_dict().items()}
    if name.endswith(".bin"):
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name)
    return model


def converted(folder, end, name):
    """(the model with them, the folder it was published in, the directory made of it)."""
    model = published(folder / "theirs", end, name)
    whole_clip.main(["--from", str(folder / "theirs"), "--output", str(folder / "ours")])
    return model, folder / "theirs", folder / "ours"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("clip"), END, "model.safetensors")


@pytest.fixture(scope="module")
def filmed():
    frames = planted.scene(np.random.default_rng(0), 30)
    return Clip(file="a.mp4", start=0, fps=24.0, frames=frames, captions={SIDECAR: "a red cab"})


def vectors(model, folder, clip, caption):
    """(unit vectors of first, middle and last frame, unit vector of the caption), by torch."""
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    read = CLIPImageProcessorPil(**sizes)
    frames = [clip.frames[i] for i in (0, 14, 29)]
    pixels = read(frames, return_tensors="pt")["pixel_values"]
    words = CLIPTokenizer.from_pretrained(folder)(
        [caption], padding="max_length", max_length=20, return_tensors="pt"
    )
    with torch.no_grad():
        made = model(pixel_values=pixels, input_ids=words["input_ids"])
    return made.image_embeds.numpy(), made.text_embeds.numpy()[0]


@pytest.mark.parity
@pytest.mark.parametrize(("end", "name"), [(END, "model.safetensors"), (2, "pytorch_model.bin")])
def test_similarity_is_that_of_transformers(end, name, filmed, tmp_path):
    model, theirs, ours = converted(tmp_path, end, name)
    stage = Similarity().build({"clip": ours})
    stage.setup()
    other = replace(filmed, captions={SIDECAR: "green", "short": "cab " * 30})
    for one, text in ((filmed, "a red cab"), (other, "green")):
        (scored,) = stage.process(one)
        seen, said = vectors(model, theirs, one, text)
        wanted = float((seen @ said).mean())
        assert scored.scores["clip_similarity"] == pytest.approx(wanted, abs=1e-5)
        mean = seen.mean(0) / np.linalg.norm(seen.mean(0))
        np.testing.assert_allclose(unpacked(packed(scored.vectors["clip"])), mean, atol=1e-3)
    longest = replace(Similarity(), caption="short").build({"clip": ours})
    assert next(iter(longest.process(filmed))).scores == {}


HEADS = {
    "linear": {"": (WIDTH, 1)},
    "improved": {
        "layers.0.": (WIDTH, 9), "layers.2.": (9, 7), "layers.4.": (7, 5), "layers.6.": (5, 3),
        "layers.7.": (3, 1),
    },
}  # fmt: skip


def head(shapes, seed=1):
    """{name: tensor} of linear layers, in no order, and the function that they are."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for stem, (before, after) in reversed(shapes.items()):
        state[f"{stem}weight"] = torch.randn(after, before, generator=generator)
        state[f"{stem}bias"] = torch.randn(after, generator=generator)

    def run(x):
        for stem in shapes:
            x = torch.nn.functional.linear(x, state[f"{stem}weight"], state[f"{stem}bias"])
        return x[:, 0]

    return state, run


@pytest.mark.parity
@pytest.mark.parametrize("kind", HEADS)
def test_aesthetic_heads_are_those_of_torch(clip, filmed, kind, tmp_path):
    state, run = head(HEADS[kind])
    if kind == "linear":
        torch.save(state, tmp_path / "head.pth")
    else:
        save_file(state, tmp_path / "head.pth")  # its bytes say what it is
    convert_aesthetic.main(["--from", str(tmp_path / "head.pth"), "--output", str(tmp_path / "x")])
    model, theirs, ours = clip
    stage = Aesthetic().build({"clip": ours, "aesthetic": tmp_path / "x"})
    stage.setup()
    (scored,) = stage.process(filmed)
    seen, _ = vectors(model, theirs, filmed, "a")
    wanted = float(run(torch.tensor(seen)).mean())
    assert scored.scores["aesthetic"] == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"layers.0.": (WIDTH, 4), "layers.1.": (5, 1)},
            r"layers\.1\.weight takes 5 numbers, .* 4",
        ),
        ({"layers.0.": (WIDTH, 4)}, "the last layer does not give one number"),
        ({"a.0.": (WIDTH, 4), "b.1.": (4, 1)}, "layers are of several lists"),
        ({"fc.": (WIDTH, 1)}, "is not of a linear layer"),
    ],
)
def test_other_heads_are_refused(shapes, message, tmp_path):
    state, _ = head(shapes)
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(Refusal, match=message):
        convert_aesthetic.read(tmp_path / "head.safetensors")


def test_a_clip_that_lacks_a_tower_is_refused_by_name(clip, tmp_path):
    shutil.copytree(clip[1], tmp_path / "vision")
    for file in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / "vision" / file).unlink(missing_ok=True)
    state = {k: v for k, v in clip[0].state_dict().items() if not k.startswith("text_proj")}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "vision/model.safetensors")
    with pytest.raises(Refusal, match=r"text_projection\.weight is missing"):
        whole_clip.write(tmp_path / "vision", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "vision" / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(Refusal, match="is of a siglip; a whole clip is needed"):
        whole_clip.write(tmp_path / "vision", tmp_path / "out")


# ---- --weights -----------------------------------------------------------------------------------

LEARNT = CurateConfig(stages=(Similarity(), Aesthetic()), rules=())


@pytest.mark.parametrize("config", [LEARNT, configs.load("configs/curate.py:learnt")])
def test_missing_weights_are_one_error_that_says_how_to_get_them(config):
    assert configs.from_json(configs.to_json(config)) == config
    with pytest.raises(Refusal) as refusal:
        config.build()
    said = str(refusal.value)
    for words in (
        "Similarity needs --weights clip=PATH: a model directory of CLIP",
        "python -m vdm_jax.convert.whole_clip --from",
        "Aesthetic needs --weights aesthetic=PATH",
        "python -m vdm_jax.convert.aesthetic --from",
    ):
        assert words in said


def test_weights_that_are_not_what_they_should_be(clip, tmp_path):
    _, theirs, ours = clip
    with pytest.raises(Refusal, match="write NAME=PATH"):
        weights.given(["models/clip"])
    with pytest.raises(Refusal, match="is given twice"):
        weights.given([f"clip={ours}", f"clip={ours}"])
    with pytest.raises(Refusal, match="there is no such file or folder"):
        weights.given(["clip=nowhere"])
    with pytest.raises(Refusal, match=r"--weights clop: no stage .* ask for aesthetic, clip"):
        replace(LEARNT, weights=weights.given([f"clip={ours}", "aesthetic=README.md",
                                               f"clop={ours}"])).build()  # fmt: skip
    for wrong in (theirs, tmp_path):
        (tmp_path / "file").write_bytes(b"x")
        given = weights.given([f"clip={wrong}"])
        (stage,) = replace(LEARNT, stages=(Similarity(),), weights=given).build()
        with pytest.raises(Refusal, match=r"wanted is a model directory of CLIP"):
            stage.setup()
    shutil.copytree(ours, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(Refusal, match=r"is damaged: tokenizer/merges\.txt"):
        weights.given([f"clip={tmp_path / 'damaged'}"])


def test_a_head_of_another_clip_is_refused(clip, tmp_path):
    state, _ = head({"": (WIDTH + 1, 1)})
    save_file(state, tmp_path / "head")
    convert_aesthetic.main(["--from", str(tmp_path / "head"), "--output", str(tmp_path / "x")])
    stage = Aesthetic().build({"clip": clip[2], "aesthetic": tmp_path / "x"})
    with pytest.raises(Refusal, match=r"takes 13 numbers, the CLIP in .* gives 12"):
        stage.setup()


def test_what_was_found_with_other_weights_is_told_apart(tmp_path):
    (tmp_path / "net").mkdir()
    digests = set()
    for content in ("one", "two"):
        (tmp_path / "net" / "a.onnx").write_text(content)
        for path in (tmp_path / "net", tmp_path / "net" / "a.onnx"):
            (made,) = weights.given([f"net={path}"])
            assert made.path == str(path.absolute())
            digests.add(made.digest)
    assert len(digests) == 4
    one = replace(LEARNT, weights=(made,))
    assert settings(one) != settings(replace(LEARNT, weights=(replace(made, digest="0"),)))
    assert settings(one) == settings(replace(one, same=0.9, vectors=("clip",), alike=0.5))
    kept = Weights(name="old", path="x")
    with pytest.raises(Refusal, match="old=x"):
        weights.given([], before=[kept])


# ---- A whole curation ----------------------------------------------------------------------------

CONFIG = """
from vdm_jax.curate.aesthetic import Aesthetic
from vdm_jax.curate.captions import Captions, Template
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.likeness import Likeness
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.rules import Rule
from vdm_jax.curate.similarity import Similarity

def config():
    return CurateConfig(
        size=64, same=0.99, vectors=("clip",), held_out=0.0,
        stages=(Motion(), Likeness(), Captions(writers=(Template(),)), Similarity(), Aesthetic()),
        rules=(Rule("aesthetic", "aesthetic > -1000"), Rule("words", "clip_similarity > -2")),
    )
"""


def test_a_curation_with_weights(clip, tmp_path, capsys):
    rng = np.random.default_rng(5)
    source = planted.Planted(tmp_path / "in")
    source.folder.mkdir()
    film = planted.scene(rng, 41)
    source.write("a", film)
    source.write("b", film[::-1])
    source.write("c", planted.scene(rng, 41))
    (tmp_path / "in" / "b.txt").write_text("a red cab")
    (tmp_path / "config.py").write_text(CONFIG)
    state, _ = head(HEADS["linear"])
    torch.save(state, tmp_path / "head.pth")
    convert_aesthetic.main(["--from", str(tmp_path / "head.pth"), "--output", str(tmp_path / "x")])

    def run(*more):
        args = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as end:
            command.run(
                curate.main,
                [*args, "--config", str(tmp_path / "config.py"), "--workers", "1", *more],
            )
        return end.value.code

    assert run("--weights", f"clip={clip[2]}") == 2
    assert "Aesthetic needs --weights aesthetic=PATH" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("--weights", f"clip={clip[2]}", f"aesthetic={tmp_path / 'x'}") == 0
    rows = {row["file"]: row for row in pq.read_table(tmp_path / "out/clips.parquet").to_pylist()}
    a, b, c = (rows[f"{name}.mp4"] for name in "abc")
    assert [row["rejected"] for row in (a, b, c)] == ["", "same", ""]
    assert b["copy_of"] == a["key"]
    assert dict(a["captions"]) == {"template": "A video of 2 seconds with much motion."}
    assert a["caption"] == dict(a["captions"])["template"]
    assert b["caption"] == "a red cab" and len(b["captions"]) == 2
    assert len(a["vector_clip"]) == WIDTH and -1 < a["clip_similarity"] < 1
    assert np.linalg.norm(a["vector_clip"]) == pytest.approx(1, abs=1e-2)
    assert "same: 1 clips" in (tmp_path / "out/report.html").read_text()
