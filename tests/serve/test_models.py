"""Models of several kinds behind one server: what each takes, and what it is refused."""

from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import openai
import pytest
from evaluate import parts
from PIL import Image
from serve.served import Server, picture
from tasks.test_tasks import TEXT, WITHOUT

from vdm_jax.core import video as videos
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks.task import Pretrained, tuned

ASKED = {"prompt": "red ball up", "seed": 11}


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    home = tmp_path_factory.mktemp("kinds")
    words, still = Pretrained(WITHOUT, TEXT), Pretrained(WITHOUT, tuned(TEXT, {"num_frames": 1}))
    return {
        "words": parts.model(home / "words", words, scale=0.2),
        "still": parts.model(home / "still", still, scale=0.2),
        "tiny": tiny,
    }


@pytest.fixture(scope="module")
def server(folders, tmp_path_factory):
    server = Server(folders, tmp_path_factory.mktemp("several"))
    yield server.start()
    server.stop()


def drawn(server, **asked):
    """The frames of a video."""
    video = server.done(server.create(**asked)["id"])
    assert video["status"] == "completed", video
    content = server.call("GET", f"/v1/videos/{video['id']}/content")[2]
    return videos.decode(content).frames


def test_each_says_what_it_takes(server):
    told = {model["id"]: model for model in server.get("/v1/models")["data"]}
    kinds = {name: (model["kind"], model["picture"]) for name, model in told.items()}
    assert kinds == {
        "words": ("text-to-video", "none"),
        "still": ("text-to-image", "none"),
        "tiny": ("image-to-video", "optional"),
    }
    assert list(told) == ["words", "still", "tiny"]  # in the order of the command


def test_a_video_is_the_one_that_the_pipeline_draws(server, folders, tmp_path):
    """Through the same codec, which loses a little."""
    frames = drawn(server, model="words", **ASKED)
    alone = Pipeline(folders["words"])(None, [ASKED["prompt"]], seed=ASKED["seed"])[0]
    videos.write(tmp_path / "a.mp4", np.round(alone * 255).astype(np.uint8), 8)
    own = videos.read(tmp_path / "a.mp4").frames
    close = np.abs(frames.astype(int) - own.astype(int)) <= 2  # XLA is less optimised there
    assert frames.shape == own.shape and close.mean() > 0.99


def test_a_prompt_and_a_seed_make_a_difference(server):
    first = drawn(server, model="words", **ASKED)
    assert (first != drawn(server, model="words", **ASKED | {"seed": 12})).any()
    assert (first == drawn(server, model="words", **ASKED)).all()


def test_a_picture_is_made_of_a_prompt(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key) as client:
        made = client.images.generate(prompt="red ball up", n=2, extra_body={"seed": 3})
        again = client.images.generate(model="still", prompt="red ball up", extra_body={"seed": 4})
        with pytest.raises(openai.BadRequestError, match="there is no such model"):
            client.images.generate(model="words", prompt="red ball up")
    sizes = [Image.open(BytesIO(b64decode(d.b64_json))).size for d in made.data]
    assert sizes == [(8, 8), (8, 8)]
    assert made.data[0].b64_json != made.data[1].b64_json == again.data[0].b64_json
    assert server.get("/v1/videos?limit=100")["data"] == [
        video for video in server.get("/v1/videos?limit=100")["data"] if video["model"] != "still"
    ]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"model": "still"}, "model"),
        ({"model": "words", "prompt": ""}, "prompt"),
        ({"model": "words", "input_reference": "data:image/png;base64,AAAA"}, "input_reference"),
        ({"model": "words", "motion_bucket_id": 100}, "motion_bucket_id"),
    ],
)
def test_what_a_model_cannot_do_is_refused(server, asked, param):
    answer = server.post("/v1/videos", {"prompt": "red"} | asked)
    assert answer["error"]["param"] == param


def test_without_a_model_of_pictures_there_are_none(served):
    answer = served.post("/v1/images/generations", {"prompt": "red"})
    assert "no model of this server" in answer["error"]["message"]


def test_a_large_picture_is_kept_smaller(server):
    out = BytesIO()
    Image.new("RGB", (3000, 2000), (200, 30, 30)).save(out, "JPEG")
    url = f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"
    video = server.create(model="tiny", input_reference={"image_url": url})
    status, headers, kept = server.call(
        "GET", f"/v1/videos/{video['id']}/content?variant=reference"
    )
    assert status == 200 and headers["content-type"] == "image/png"
    width, height = Image.open(BytesIO(kept)).size
    assert width * height <= 2048 * 2048 and abs(width / height - 1.5) < 0.01
    assert server.done(video["id"])["status"] == "completed"
    assert picture() != kept
