import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core import command, video
from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.prefer import __main__ as prefer
from vdm_jax.evaluate.prefer import study as studies
from vdm_jax.evaluate.prefer import votes as ballots
from vdm_jax.evaluate.prefer.server import BODY, Poll, Server
from vdm_jax.evaluate.prefer.votes import Ledger

QUESTION = "Which video looks better?"
SECRET = ("zebrafish", "quagga")  # names that no page may hold by chance


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders of two models: three clips in common, one alone, a prompt and a picture."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for model, suffix in zip(SECRET, (".mp4", ".gif"), strict=True):
        (root / model).mkdir()
        for name in ("one", "two", "three"):
            frames = rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
            video.write(root / model / f"{name}{suffix}", frames, 5)
    video.write(root / SECRET[0] / "alone.mp4", frames, 5)
    (root / SECRET[1] / "two.txt").write_text("a grey horse\nin the rain")
    Image.new("RGB", (32, 32), "red").save(root / SECRET[0] / "two.png")
    return root


def arguments(clips, output, *more):
    folders = [f"{model}={clips / model}" for model in SECRET]
    return ["--videos", *folders, "--output", str(output), *more]


@contextmanager
def serving(clips, output, **changes):
    """The server of the two folders, as the command makes it; yields its poll too."""
    output.mkdir(exist_ok=True)
    request = prefer.Request(videos=(), output=str(output), **changes)
    files = studies.files({model: clips / model for model in SECRET})
    asked = prefer._study(request, SECRET, files)
    subjects = prefer._subjects(asked, files, output / ".clips")
    studies.keep(asked, output)
    ledger = Ledger(output)
    poll = Poll(asked, subjects, ledger, ballots.read(output), lambda line: None)
    with Server(poll, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.address_of("")
        finally:
            server.shutdown()
            thread.join()
            ledger.close()


def get(address, path=""):
    with urllib.request.urlopen(address + path, timeout=10) as reply:
        return reply.headers, reply.read()


def post(address, what, **body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + what, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def vote(address, number, choice="left", rater="anna", milliseconds=1500):
    return post(
        address, "vote", rater=rater, number=number, choice=choice, milliseconds=milliseconds
    )


# ---- The page ------------------------------------------------------------------------------------


def test_nothing_that_is_sent_tells_a_model_and_every_vote_is_of_what_was_shown(clips, tmp_path):
    output = tmp_path / "study"
    with serving(clips, output) as address:
        heard = [get(address, path) for path in ("", "page.css", "page.js")]
        assert all(
            "default-src 'none'" in headers["Content-Security-Policy"] for headers, _ in heard
        )
        place = post(address, "place", rater="anna")
        seen = {}
        for number in range(3):
            assert (place["number"], place["of"], place["done"]) == (number, 3, False)
            for side in ("left", "right"):
                headers, content = get(address, f"media/{number}/{side}?rater=anna")
                heard.append((headers, content))
                seen[number, side] = content
            if place["image"]:
                assert place["prompt"] == "a grey horse in the rain"
                heard.append(get(address, f"media/{number}/image?rater=anna"))
                assert heard[-1][0]["Content-Type"] == "image/png"
            heard.append(({}, json.dumps(place).encode()))
            place = vote(address, number, ("left", "right", "tie")[number])
        assert place == {"number": 3, "of": 3, "done": True}
        token = address.split("/")[-2]
        for headers, content in heard:
            said = str(headers).encode() + content
            assert not any(word.encode() in said for word in (*SECRET, str(clips), token))
    held = ballots.read(output)
    assert [one.choice for one in held] == ["left", "right", "tie"]
    for number, one in enumerate(held):
        assert {one.left, one.right} == set(SECRET) and one.milliseconds == 1500
        for side, model in (("left", one.left), ("right", one.right)):
            path = clips / model / f"{one.name}.mp4"
            if path.exists():  # the other is a GIF, which is sent as an MP4
                assert seen[number, side] == path.read_bytes()
            else:
                assert video.decode(seen[number, side]).frames.shape == (3, 32, 32, 3)


def test_a_choice_can_be_taken_back_and_made_anew(clips, tmp_path):
    output = tmp_path / "study"
    with serving(clips, output) as address:
        vote(address, 0)
        vote(address, 1)
        assert post(address, "undo", rater="anna", number=2)["number"] == 1
        assert post(address, "undo", rater="anna", number=1)["number"] == 0
        with pytest.raises(urllib.error.HTTPError, match="409"):
            post(address, "undo", rater="anna", number=0)
        assert vote(address, 0, "right")["number"] == 1
    assert [one.choice for one in ballots.read(output)] == [
        *("left", "left", "undo", "undo", "right")
    ]
    (stands,) = ballots.standing(ballots.read(output)).values()
    assert stands.choice == "right"
    with serving(clips, output) as address:
        assert post(address, "place", rater="anna")["number"] == 1
        assert post(address, "place", rater="ben")["number"] == 0


def raw(address, head, body=b""):
    port = int(address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(head + body)
        with contextlib.suppress(OSError):  # the server may have answered and gone already
            one.shutdown(socket.SHUT_WR)
        reply = b""
        while piece := one.recv(65536):
            reply += piece
    return reply


def hostile(token):
    """Requests that must change nothing."""
    good = f"POST /{token}/vote HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

    def body(content, head=good):
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def choice(**changes):
        whole = {"rater": "anna", "number": 0, "choice": "left", "milliseconds": 900}
        return json.dumps(whole | changes).encode()

    ours = "Host: localhost:80\r\n\r\n"
    yield f"GET /{token}x/ HTTP/1.1\r\n{ours}".encode()
    yield f"GET /é/ HTTP/1.1\r\n{ours}".encode()
    yield f"GET / HTTP/1.1\r\n{ours}".encode()
    yield f"GET * HTTP/1.1\r\n{ours}".encode()
    yield f"GET /{token}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()
    yield f"GET /{token}/ HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n".encode()
    yield f"GET /{token}/ HTTP/1.1\r\n\r\n".encode()
    yield f"GET /{token}/ HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".encode()
    for path in (
        *("../../../etc/passwd", "%2e%2e/prefer.py", "page.js/..", "index.html", "..", "//"),
        *("media/0/left", "media/0/left?rater=", "media/0/left?rater=../x", "media/3/left?rater=a"),
        *("media/-1/left?rater=a", "media/0/..?rater=a", "media/٠/left?rater=a", "media/0/path"),
        *("media/99999999999/left?rater=a", "media/0/left/x?rater=a", "media/../study.json"),
    ):
        yield f"GET /{token}/{path} HTTP/1.1\r\n{ours}".encode()
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "x"):
        yield f"{method} /{token}/vote HTTP/1.1\r\n{ours}".encode()
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"
    yield b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    yield f"{good}X: {'y' * 70_000}\r\n\r\n".encode()
    yield body(choice(), good.replace("application/json", "text/plain"))
    yield body(choice(), good.replace(f"/{token}/", "/guess/"))
    yield body(choice(), good.replace("127.0.0.1", "evil.example"))
    yield body(choice(), f"{good}Origin: http://evil.example\r\n")
    yield body(choice(), f"{good}Origin: null\r\n")
    yield body(choice(), good.replace("/vote", "/votes"))
    yield body(b" " * (2 * BODY) + choice())
    yield f"{good}Content-Length: 99999999999\r\n\r\n".encode() + b"{" * 100_000
    yield f"{good}Content-Length: -1\r\n\r\n".encode() + choice()
    yield f"{good}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 4000, b'{"rater":1}', b"1e999"):
        yield body(content)
    for changes in (
        *({"number": 1}, {"number": -1}, {"number": "0"}, {"number": 0.0}, {"number": True}),
        *({"number": None}, {"choice": "undo"}, {"choice": "both"}, {"choice": ["left"]}),
        *({"choice": None}, {"milliseconds": -1}, {"milliseconds": 1e3}, {"milliseconds": 10**12}),
        *({"rater": ""}, {"rater": "x" * 41}, {"rater": "a\nb"}, {"rater": "../x"}),
        *({"rater": " a"}, {"rater": "\ud800"}, {"rater": None}, {"rater": ["a"]}),
    ):
        yield body(choice(**changes))


def test_hostile_requests_are_denied_in_a_line_and_change_nothing(clips, tmp_path, capfd):
    output = tmp_path / "study"
    with serving(clips, output) as address:
        vote(address, 0, rater="before")
        before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
        for request in hostile(address.split("/")[-2]):
            reply = raw(address, request)
            status, _, content = reply.partition(b"\r\n\r\n")
            assert status.split()[1][:1] == b"4", (request[:200], reply[:200])
            assert content.count(b"\n") <= 1 and len(content) < 200
            assert b"Python" not in reply and b"Traceback" not in reply
        after = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
        assert after == before
        assert vote(address, 0)["number"] == 1
        assert capfd.readouterr().err == ""


def test_only_this_machine_can_connect(clips, tmp_path):
    with serving(clips, tmp_path / "study") as address:
        port = int(address.split(":")[2].split("/")[0])
        others = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None)}
        for host in others - {"127.0.0.1", "::1"}:
            with pytest.raises(OSError), socket.create_connection((host, port), timeout=2):
                pass
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/" + address.split("/")[-2] + "/", headers={"Host": "[::1]:9"})
        assert connection.getresponse().status == 200
        connection.close()


def test_a_vote_that_the_disk_does_not_take_is_told_and_leaves_no_trace(
    clips, tmp_path, monkeypatch
):
    output = tmp_path / "study"
    with serving(clips, output) as address:
        vote(address, 0)
        before = (output / "votes.jsonl").read_bytes()
        whole = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:20], at))
        with pytest.raises(urllib.error.HTTPError, match="507"):
            vote(address, 1)
        monkeypatch.undo()
        assert (output / "votes.jsonl").read_bytes() == before
        assert post(address, "place", rater="anna")["number"] == 1
        assert vote(address, 1)["number"] == 2


# ---- The command ---------------------------------------------------------------------------------


@contextmanager
def started(args):
    """The command as a process; yields it and the address that it prints."""
    child = subprocess.Popen(
        [sys.executable, "-m", "vdm_jax.evaluate.prefer", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        while not lines or not lines[-1].startswith("open "):
            lines.append(child.stdout.readline())
            assert lines[-1], child.stderr.read()
        yield child, lines[-1].split()[1], lines
    finally:
        child.kill()
        child.communicate()


def test_no_vote_is_lost_by_a_kill_and_the_study_goes_on(clips, tmp_path):
    output = tmp_path / "study"
    args = arguments(clips, output, "--question", "Looks?", "--question", "Follows?")
    with started(args) as (child, address, lines):
        assert lines[0] == "matched by name: zebrafish and quagga: 3; 1 alone: alone (zebrafish)\n"
        for number in range(4):
            vote(address, number)
        child.send_signal(signal.SIGKILL)
        child.wait()
    path = output / "votes.jsonl"
    assert len(ballots.read(output)) == 4
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines()[-1][:50] + b"x" * 1000)  # was being written
    assert len(ballots.read(output)) == 4
    with started([*args, "--rater", "anna b"]) as (child, address, _):
        assert address.endswith("?rater=anna%20b")
        address = address.partition("?")[0]
        place = post(address, "place", rater="anna")
        assert (place["number"], place["of"]) == (4, 6)
        assert vote(address, 4)["number"] == 5
        child.send_signal(signal.SIGTERM)
        said, error = child.communicate(timeout=60)
        assert child.returncode == 0, error
    assert "Follows?" in said and "Looks?" in said and "by rater: anna 3" in said
    assert path.read_bytes().endswith(b"\n")
    held = ballots.read(output)
    assert [one.question for one in held] == ["Looks?", "Follows?", "Looks?", "Follows?", "Looks?"]
    assert "zebrafish" in (output / "report.html").read_text()


def refused(args):
    with pytest.raises(Refusal) as refusal:
        prefer.main(args)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_other_arguments_than_those_of_the_study_are_refused_by_name(clips, tmp_path):
    output = tmp_path / "study"
    with serving(clips, output):
        pass
    args = arguments(clips, output)
    assert "seed: 0, now 1" in refused([*args, "--seed", "1"])
    assert "pairs: all, now 2" in refused([*args, "--pairs", "2"])
    assert "ties: yes, now no" in refused([*args, "--no-ties"])
    assert f"questions: {QUESTION}, now Why?" in refused([*args, "--question", "Why?"])
    assert "models: zebrafish, quagga, now quagga, zebrafish" in refused(
        ["--videos", *args[2:0:-1], "--output", str(output)]
    )
    held = json.loads((output / "study.json").read_text())
    held["videos"]["one"]["quagga"] = "0" * 16
    (output / "study.json").write_text(json.dumps(held))
    assert "video one has other bytes" in refused(args)
    (output / "study.json").write_text("{")
    assert "study.json: is damaged" in refused(args)


def test_what_cannot_be_asked_is_refused(clips, tmp_path):
    output = tmp_path / "study"
    args = arguments(clips, output)
    assert "--output is missing" in refused([])
    assert "two models or more, got a" in refused(
        ["--output", str(output), "--videos", f"a={clips / SECRET[0]}"]
    )
    assert "write MODEL=FOLDER" in refused(["--output", str(output), "--videos", str(clips)])
    assert "holds no video" in refused(
        ["--output", str(output), "--videos", f"a={clips}", "--videos", f"b={clips}"]
    )
    assert "--pairs 4: there are 3" in refused([*args, "--pairs", "4"])
    assert "--pairs must be at least 1" in refused([*args, "--pairs", "0"])
    assert "--rater 'a/b'" in refused([*args, "--rater", "a/b"])
    assert "asked once" in refused([*args, "--question", "x", "x"])
    assert "holds no study" in refused(["--output", str(output), "--report"])
    assert not output.exists()


def test_a_second_server_of_a_study_and_a_broken_video_are_refused(clips, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "one.mp4").write_bytes(b"no video")
    args = ["--videos", f"a={broken}", f"b={clips / SECRET[0]}", "--output", str(tmp_path / "x")]
    assert "one.mp4: is not a video" in refused(args)
    with started(arguments(clips, tmp_path / "study")):
        with pytest.raises(SystemExit) as end:
            command.run(prefer.main, arguments(clips, tmp_path / "study"))
        assert end.value.code == os.EX_TEMPFAIL
