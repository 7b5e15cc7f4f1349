"""The server's commands as users type them."""

import re
import socket
import subprocess
import sys

import pytest
from serve.served import ROOT, Server, environment, picture

from vdm_jax.core import video as videos
from vdm_jax.core.refusal import Refusal
from vdm_jax.serve.__main__ import main as serve
from vdm_jax.serve.commands import client

KEY = re.compile(r"vdm_([0-9a-f]{16})_[0-9a-f]{64}")


@pytest.fixture
def data(tmp_path):
    return str(tmp_path / "served")


def made(capsys, data, *options):
    assert serve(["keys", "create", "--data", data, "--name", "someone", *options]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_shown_once_and_listed_without_its_secret(capsys, data):
    key = made(capsys, data)
    match = KEY.fullmatch(key)
    assert match
    assert serve(["keys", "list", "--data", data]) == 0
    said = capsys.readouterr().out
    assert match[1] in said and "good" in said and key.rpartition("_")[2] not in said


def test_a_key_is_rotated_and_revoked(capsys, data):
    first = KEY.fullmatch(made(capsys, data))[1]
    assert serve(["keys", "rotate", "--data", data, "--key", first]) == 0
    second = KEY.fullmatch(capsys.readouterr().out.strip())[1]
    assert serve(["keys", "revoke", "--data", data, "--key", second]) == 0
    capsys.readouterr()
    assert serve(["keys", "list", "--data", data]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "expired" in lines[first] and "revoked" in lines[second]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["create"], "--name is missing"),
        (["create", "--name", "x", "--scopes", "all"], "there are videos:read"),
        (["create", "--name", "x", "--days", "-1"], "above 0"),
        (["create", "--name", "x", "--concurrent-videos", "0"], "at least 1"),
        (["revoke", "--key", "0123"], "there is no key"),
        (["revoke"], "--key is missing"),
        (["destroy"], "there are create, list"),
    ],
)
def test_what_keys_refuses(capsys, data, args, words):
    made(capsys, data)
    with pytest.raises(Refusal, match=words):
        serve(["keys", args[0], *([] if args[0] == "destroy" else ["--data", data]), *args[1:]])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "--model is missing"),
        (["--model", "nowhere"], "holds no config.json"),
        (["--model", "a=x", "a=y"], "there is another a"),
        (["--model", "/=x"], "is no name"),
        (["--model", "TINY", "--port", "70000"], "ports are 0 to 65535"),
        (["--model", "TINY", "--dtype", "float64"], "float32 or bfloat16"),
        (["--model", "TINY", "--database", "mysql://a/b"], "use postgresql://"),
        (["--model", "TINY", "--host", "0.0.0.0"], "there is no key yet"),
        (["--model", "TINY", "--quota.concurrent-videos", "0"], "at least 1"),
        (["--model", "a=nowhere", "--model", "TINY"], "a: nowhere holds no config.json"),
        (["--model", "TINY", "--bounds.attempts", "0"], "attempts must be above 0"),
        (["--model", "TINY", "--workers", "3"], "must be 1 or 0"),
    ],
)
def test_what_a_server_refuses(tiny, data, args, words):
    args = [str(tiny) if each == "TINY" else each for each in args]
    with pytest.raises(Refusal, match=words):
        serve([*args, "--data", data])


def test_a_folder_of_another_store_is_not_taken_for_leftovers(tiny, data, tmp_path, capsys):
    """Nor are its videos swept away."""
    made(capsys, data)
    kept = tmp_path / "served" / "videos" / "ab" / f"video_{'ab' * 16}"
    kept.mkdir(parents=True)
    (tmp_path / "served" / "jobs.sqlite").unlink()
    for left in ("jobs.sqlite-wal", "jobs.sqlite-shm"):
        (tmp_path / "served" / left).unlink(missing_ok=True)
    with pytest.raises(Refusal, match="belong to another job store"):
        serve(["--model", str(tiny), "--data", data])
    (tmp_path / "served" / "store").unlink()
    with pytest.raises(Refusal, match="belong to another job store"):
        serve(["--model", str(tiny), "--data", data])
    assert kept.is_dir()


def test_a_worker_of_its_own_needs_the_servers_store(tiny, data, capsys, monkeypatch):
    monkeypatch.delenv("VDM_DATABASE", raising=False)
    made(capsys, data)
    with pytest.raises(Refusal, match="PostgreSQL store"):
        serve(["worker", "--model", str(tiny), "--data", data])


def test_a_key_that_has_ended_is_not_rotated(capsys, data):
    first = KEY.fullmatch(made(capsys, data, "--days", "1e-9"))[1]
    with pytest.raises(Refusal, match="has ended"):
        serve(["keys", "rotate", "--data", data, "--key", first])


def test_a_port_that_is_taken(tiny, data):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(Refusal, match="cannot listen there"):
            serve(["--model", str(tiny), "--data", data, "--port", port])


@pytest.mark.parametrize("args", [["--help"], ["keys", "--help"], ["keys", "create", "--help"],
                                  ["client", "--help"], ["worker", "--help"]])  # fmt: skip
def test_help(args):
    command = [sys.executable, "-m", "vdm_jax.serve", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0 and "usage" in done.stdout.lower() and not done.stderr


def test_the_client_makes_a_video_of_a_picture(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(client.KEY, served.key)
    (tmp_path / "a.png").write_bytes(picture())
    asked = ["client", "--url", served.url, "--image", str(tmp_path / "a.png"), "--seed", "4"]
    assert serve([*asked, "--prompt", "a red circle", "--output", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().out
    assert "4 frames of 16x16 at 8 frames/s, seed 4" in said
    assert videos.read(tmp_path / "a.mp4").frames.shape == (4, 16, 16, 3)
    video = re.search(r"video_[0-9a-f]{32}", said)[0]
    again = ["client", "--url", served.url, "--video", video, "--output"]
    assert serve([*again, str(tmp_path / "a.jpg")]) == 0
    assert videos.read_image(tmp_path / "a.jpg").shape[2] == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--size", "17x16"], "takes multiples of"),
        (["--output", "a.avi"], "write .mp4"),
        (["--output", "nowhere/a.mp4"], "is no folder"),
        (["--image", "nothing.png"], "is no file"),
        (["--url", "ftp://x"], "write http://"),
        (["--video", "video_x"], "there is no such video"),
    ],
)
def test_what_the_client_refuses(served, tmp_path, monkeypatch, args, words):
    monkeypatch.setenv(client.KEY, served.key)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=words):
        serve(["client", "--url", served.url, *args])


def test_a_server_without_a_key_answers_this_machine(tiny, tmp_path):
    server = Server(tiny, tmp_path / "open", keyed=False)
    server.start()
    try:
        assert server.get("/v1/me")["authentication"] == "none"
        assert server.done(server.create()["id"])["status"] == "completed"
        elsewhere = {"Host": "evil.example"}
        assert server.call("GET", "/v1/videos", headers=elsewhere)[0] == 403
        crossed = {"Origin": "https://evil.example"}
        assert server.call("POST", "/v1/videos", {"prompt": "a"}, headers=crossed)[0] == 403
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        assert server.call("GET", "/v1/videos", headers=forwarded)[0] == 403
        before = [video["id"] for video in server.get("/v1/videos")["data"]]
        key = server.keys("create", "--name", "first")
        server.until(lambda: server.call("GET", "/v1/videos")[0] == 401, 5)
        of_first = server.get("/v1/videos", key=key)["data"]
        assert before and [video["id"] for video in of_first] == before
        second = server.keys("create", "--name", "second")
        assert server.get("/v1/videos", key=second)["data"] == []
    finally:
        assert server.stop() == 0
