"""The real `openai` client, unchanged, against a server; and the same over bare HTTP."""

import asyncio
import base64
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serve.raw import form
from serve.served import picture

from vdm_jax.core import video as videos
from vdm_jax.serve.api.app import Opened

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0)


@pytest.fixture(scope="module")
def made(served):
    """A finished video."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key)
    with pytest.warns(DeprecationWarning):
        return client.videos.create_and_poll(
            prompt="a red circle moves right",
            model="tiny",
            size="16x16",
            input_reference=("../../evil.png", picture(), "image/png"),
            extra_body={"seed": 7, "num_frames": "4", "fps": "5.0"},
        )


def test_a_video_is_made_as_it_was_asked_for(made):
    assert (made.object, made.status, made.progress) == ("video", "completed", 100)
    assert (made.model, made.size, made.seconds) == ("tiny", "16x16", "0.8")
    assert (made.seed, made.num_frames, made.fps) == (7, 4, 5.0)
    assert made.id.startswith("video_") and made.error is None
    assert made.created_at <= made.completed_at < made.expires_at


def test_every_variant_is_what_it_says(client, made, tmp_path):
    whole = client.videos.download_content(made.id)
    whole.write_to_file(tmp_path / "a.mp4")
    clip = videos.read(tmp_path / "a.mp4")
    assert clip.frames.shape == (4, 16, 16, 3) and clip.fps == 5
    assert whole.response.headers["content-type"] == "video/mp4"
    thumbnail = client.videos.download_content(made.id, variant="thumbnail")
    assert thumbnail.response.headers["content-type"] == "image/webp"
    assert videos.read_image(thumbnail.content).shape == (16, 16, 3)
    sheet = client.videos.download_content(made.id, variant="spritesheet")
    assert sheet.response.headers["content-type"] == "image/jpeg"
    assert min(videos.read_image(sheet.content).shape[:2]) > 32


def test_the_list_is_paged_to_its_end(client, served):
    ids = [served.create(seed=number)["id"] for number in range(5)]
    listed = [video.id for video in client.videos.list(limit=2)]
    assert listed[:5] == ids[::-1] and len(listed) == len(set(listed))
    upwards = [video.id for video in client.videos.list(limit=3, order="asc")]
    assert upwards == listed[::-1]
    after = client.videos.list(limit=2, after=ids[3])
    assert [video.id for video in after.data] == [ids[2], ids[1]]


def test_a_remix_is_the_same_video_with_other_words(client, served, made):
    remixed = client.videos.remix(made.id, prompt="a blue square moves left")
    assert (remixed.remixed_from_video_id, remixed.seed) == (made.id, made.seed)
    assert remixed.prompt == "a blue square moves left" and remixed.size == made.size
    assert served.done(remixed.id)["status"] == "completed"
    first, again = (client.videos.download_content(v).content for v in (made.id, remixed.id))
    assert first != again


def test_the_same_seed_is_the_same_video(client, served, made):
    again = client.videos.create_and_poll(
        prompt=made.prompt, size=made.size, input_reference=picture(),
        extra_body={"seed": 7, "num_frames": 4, "fps": 5},
    )  # fmt: skip
    same = client.videos.download_content(again.id).content
    assert same == client.videos.download_content(made.id).content


def test_a_picture_comes_as_a_data_url_too(client, served):
    url = f"data:image/webp;base64,{base64.b64encode(picture(form='WEBP')).decode()}"
    video = client.videos.create(prompt="", extra_body={"input_reference": {"image_url": url}})
    assert video.has_input_reference
    assert served.done(video.id)["status"] == "completed"


def test_what_is_deleted_is_gone(client, served):
    video = client.videos.create(prompt="a red circle")
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    with pytest.raises(openai.NotFoundError):
        client.videos.delete(video.id)
    folder = served.data / "videos" / video.id[6:8] / video.id
    served.until(lambda: not folder.exists())


def test_models_are_listed(client):
    listed = client.models.list()
    assert [model.id for model in listed.data] == ["tiny"]
    assert client.models.retrieve("tiny").kind == "image-to-video"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


REFUSED = {
    "size": ({"size": "17x16"}, "size", "multiples of"),
    "a size that is none": ({"size": "large"}, "size", "WIDTHxHEIGHT"),
    "too large": ({"size": "1600x1600"}, "size", "too large"),
    "too long": ({"seconds": "60"}, "seconds", "at most 4 frames"),
    "another model": ({"model": "sora-2"}, "model", "there are tiny"),
    "a setting of others": ({"extra_body": {"motion_bucket_id": 3}}, "motion_bucket_id", "has no"),
    "no number": ({"extra_body": {"seed": "many"}}, "seed", "integer"),
    "an unknown field": ({"extra_body": {"lora": "x"}}, "lora", "not known"),
    "no picture": ({"input_reference": b"not a picture"}, "input_reference", "picture"),
    "an address": (
        {"extra_body": {"input_reference": {"image_url": "http://127.0.0.1/a.png"}}},
        "input_reference", "not fetched",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(client, case):
    given, param, words = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt="a red circle", **given)
    error = caught.value
    assert error.param == param and words in error.body["message"]
    assert error.type == "invalid_request_error" and error.code and error.request_id


def test_a_key_that_is_none(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="vdm_none", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.videos.list()
    assert caught.value.code == "invalid_api_key"


def test_a_key_without_the_right(served):
    key = served.keys("create", "--name", "reader", "--scopes", "videos:read")
    reader = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)
    assert reader.videos.list().data == []
    with pytest.raises(openai.PermissionDeniedError) as caught:
        reader.videos.create(prompt="a red circle")
    assert caught.value.code == "insufficient_scope"


def test_a_key_that_asks_for_too_much(served):
    key = served.keys("create", "--name", "small", "--frame-pixels-per-day", "1500")
    small = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)
    small.videos.create(prompt="a red circle")  # 4 frames of 16x16: 1024
    with pytest.raises(openai.RateLimitError) as caught:
        small.videos.create(prompt="a red circle")
    assert caught.value.code == "insufficient_quota"
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_an_idempotency_key_makes_one_video(client):
    headers = {"Idempotency-Key": "the same"}
    first = client.videos.create(prompt="a red circle", extra_headers=headers)
    again = client.videos.create(prompt="a red circle", extra_headers=headers)
    assert first.id == again.id
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create(prompt="a blue circle", extra_headers=headers)
    assert caught.value.code == "idempotency"


def test_the_clients_own_retry_of_a_lost_answer_makes_no_second_video(client):
    first = client.videos.create(prompt="a lost answer")
    retried = {"x-stainless-retry-count": "1"}
    assert client.videos.create(prompt="a lost answer", extra_headers=retried).id == first.id
    assert client.videos.create(prompt="a lost answer").id != first.id


def test_the_clients_retry_of_what_was_refused_is_a_video_of_its_own(served):
    """Five of one prompt, at a rate that refuses some for a moment."""
    key = served.keys("create", "--name", "hasty", "--requests-per-minute", "30")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=4) as client:
        made = [client.videos.create(prompt="the same") for _ in range(9)]
        assert len({video.id for video in made}) == 9
    said = (served.data / "audit.log").read_text().splitlines()
    mine = [json.loads(line) for line in said if f'"key": "{key.split("_")[1]}"' in line]
    assert 429 in [line["status"] for line in mine]


def test_over_bare_http(served):
    """The wire itself, should the client lose its resource one day."""
    boundary = "x1y2z3"
    parts = {"prompt": "a red circle", "seconds": "0.5", "seed": "5", "size": "16x16"}
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode()
        for n, v in parts.items()
    )
    body += (
        f"--{boundary}\r\nContent-Disposition: form-data; name=\"input_reference\"; "
        f"filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
    ).encode() + picture() + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, headers, content = served.call("POST", "/v1/videos", body, headers=kind)
    assert status == 200 and headers["x-request-id"].startswith("req_")
    video = json.loads(content)
    known = {"id", "object", "created_at", "completed_at", "expires_at", "status", "progress",
             "model", "prompt", "seconds", "size", "remixed_from_video_id", "error"}  # fmt: skip
    assert known <= set(video) and video["status"] == "queued" and video["seconds"] == "0.5"
    status, headers, _ = served.call("GET", f"/v1/videos/{video['id']}")
    assert status == 200 and 250 <= int(headers["openai-poll-after-ms"]) <= 5000
    served.done(video["id"])
    path = f"/v1/videos/{video['id']}/content"
    status, headers, part = served.call("GET", path, headers={"Range": "bytes=4-7"})
    assert (status, part, headers["content-type"]) == (206, b"ftyp", "video/mp4")
    assert served.call("GET", f"{path}?variant=other")[0] == 400
    page = served.get("/v1/videos?limit=1")
    assert page["has_more"] and page["last_id"] == page["data"][0]["id"] == page["first_id"]
    status, headers, content = served.call("GET", "/v1/nothing")
    assert status == 404 and b'"error"' in content


def test_what_is_deleted_while_it_is_asked_for_comes_whole_or_is_not_found(served):
    """Many readers of pictures whose videos go at that moment: none hears of a fault."""
    sent = picture(64)
    kind, body = form([("prompt", "x")], [("input_reference", "a.png", sent)])
    with ThreadPoolExecutor(6) as readers:
        for _ in range(40):
            status, _, content = served.call("POST", "/v1/videos", body, headers=dict(kind))
            assert status == 200
            path = f"/v1/videos/{json.loads(content)['id']}"
            whole = served.call("GET", f"{path}/content?variant=reference")[2]
            asked = [
                readers.submit(served.call, "GET", f"{path}/content?variant=reference")
                for _ in range(6)
            ]
            assert served.call("DELETE", path)[0] == 200
            for status, _, content in (each.result() for each in asked):
                assert (status == 200 and content == whole) or status == 404, status
    assert "Traceback" not in served.words()


@pytest.mark.parametrize("first", [0, 100_000])
def test_an_open_file_is_sent_though_its_name_is_gone(tmp_path, first):
    content = random.Random(0).randbytes(200_000)
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    file = path.open("rb")
    app, sent = Opened(file, "video/mp4", "a.mp4"), []
    path.unlink()

    async def take(message):
        sent.append(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "headers": [(b"range", b"bytes=%d-" % first)]}
    asyncio.run(app(scope | {"asgi": {"spec_version": "2.4"}}, None, take))
    assert b"".join(sent) == content[first:]
    assert file.closed


def test_progress_is_told_while_it_is_drawn(served):
    """More steps than can be over between two looks."""
    video = served.create(num_inference_steps=100, num_frames=4)
    seen = set()
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        told = served.get(f"/v1/videos/{video['id']}")
        seen.add((told["status"], told["step"]))
        if told["status"] == "completed":
            break
    steps = [step for status, step in seen if status == "in_progress"]
    assert told["status"] == "completed" and told["step"] == 100
    assert all(0 <= step <= 100 for step in steps)
