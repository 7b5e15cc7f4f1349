"""What a server is sent by those who want it down: it says what is wrong in a line, and lives."""

import base64
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from serve import bombs, mutator
from serve.bodies import BODIES, JSON, MB, PARTS, QUERIES, addresses
from serve.described import Described
from serve.drips import drips, slow
from serve.house import LITTLE, keyed
from serve.memory import Memory
from serve.raw import LOOPBACK, ask, bearer, exchange, form, parsed, request, said, statuses
from serve.served import Server, picture

BOUND = 100  # MB that memory may grow by


def quiet(server):
    """Stop it; it lived, and said nothing of a fault."""
    begun = time.monotonic()
    assert server.get("/health", public=True)["status"] == "ok"
    assert time.monotonic() - begun < 5
    words = server.words()
    server.stop()
    assert "Traceback" not in words and "fault" not in words, words[-3000:]


@pytest.fixture(scope="module")
def target(tiny, tmp_path_factory):
    """A server that takes many requests, and few videos at a time."""
    quota = "--quota.requests-per-minute", "10000000", "--quota.concurrent-videos", "8"
    server = Server(tiny, tmp_path_factory.mktemp("target"), *quota, *LITTLE, keyed=False)
    keyed(server).start()
    yield server
    status, _, content = server.call("POST", "/v1/videos", {"prompt": "after all that"})
    assert status in (200, 429), content
    quiet(server)


@pytest.fixture(scope="module")
def strict(tiny, tmp_path_factory):
    """One that waits little for what is sent, and draws nothing."""
    few = "--bounds.upload-mb", "4", "--bounds.upload-seconds", "3", "--workers", "0"
    few += "--bounds.connections", "300"
    server = Server(tiny, tmp_path_factory.mktemp("strict"), *few, *LITTLE, keyed=False)
    keyed(server).start(ready=False)
    yield server
    quiet(server)


def post(server, headers, body, path="/v1/videos", seconds=30):
    return ask(server.port, request("POST", path, [*bearer(server.key), *headers], body), seconds)


def refusal(answer, param=None):
    """In OpenAI's shape, in one line, and for no fault of the server's."""
    assert 400 <= answer.status < 500, answer
    error = answer.error
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "\n" not in error["message"] and len(error["message"]) < 300
    assert param is None or error["param"] == param
    return error


# ---- Pictures ------------------------------------------------------------------------------------


def test_pictures_that_are_bombs_are_refused_in_a_line_and_in_little_memory(target):
    names = (
        "../../../etc/cron.d/x",
        "..\\..\\x.png",
        "%2e%2e%2fx",
        "/etc/passwd",
        "CON.png",
        "x" * 900,
    )
    before = {p for p in target.data.rglob("*") if "videos" in p.parts}
    with Memory(target) as memory:
        for number, (name, content) in enumerate(bombs.refused().items()):
            kind, body = form([("prompt", "x")], [("input_reference", names[number % 6], content)])
            begun = time.monotonic()
            error = refusal(post(target, kind, body), "input_reference")
            assert error["code"] == "invalid_image", name
            assert time.monotonic() - begun < 10, name
            if len(content) < 1_000_000:
                url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
                asked = {"prompt": "x", "input_reference": {"image_url": url}}
                refusal(post(target, JSON, json.dumps(asked).encode()), "input_reference")
    print(f"bombs: {memory}")
    assert memory.peak < BOUND
    assert {p for p in target.data.rglob("*") if "videos" in p.parts} == before


def test_pictures_at_the_bounds_are_taken_in_bounded_memory_and_made_anew(target):
    """What was behind a picture, or said in it, is not kept."""
    with Memory(target) as memory:
        for name, content in bombs.taken().items():
            kind, body = form([("prompt", "x")], [("input_reference", "a.exe", content)])
            answer = post(target, kind, body)
            assert answer.status == 200, (name, answer)
            video = json.loads(answer.body)["id"]
            kept = target.call("GET", f"/v1/videos/{video}/content?variant=reference")[2]
            assert kept.startswith(bombs.PNG) and kept.endswith(b"IEND\xaeB`\x82"), name
            assert b"PK\x03\x04" not in kept and b"script" not in kept and b"xif" not in kept
            assert len(kept) < 20_000_000
            target.call("DELETE", f"/v1/videos/{video}")
    print(f"pictures at the bounds: {memory}")
    assert memory.peak < BOUND


def test_no_address_is_ever_fetched(target):
    """A listener hears nothing, whatever is named and however."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        for url in addresses(port):
            for asked in (url, {"image_url": url}, {"image_url": {"url": url}}):
                content = json.dumps({"prompt": "x", "input_reference": asked}).encode()
                refusal(post(target, JSON, content), "input_reference")
            for name in ("input_reference", "input_reference[image_url]"):
                kind, body = form([("prompt", "x"), (name, url)])
                refusal(post(target, kind, body), "input_reference")
            content = json.dumps({"prompt": "x", "image_url": url, "input_video": url}).encode()
            refusal(post(target, JSON, content))
        with pytest.raises(TimeoutError):
            listener.accept()


# ---- Bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_cannot_be_is_refused_in_a_line(target, case):
    headers, body = BODIES[case]
    with Memory(target) as memory:
        for path in ("/v1/videos", "/v1/images/generations"):
            begun = time.monotonic()
            refusal(post(target, headers, body, path))
            assert time.monotonic() - begun < 5
    assert memory.peak < BOUND


@pytest.mark.parametrize("case", PARTS)
def test_a_form_that_cannot_be_is_refused_in_a_line(target, case):
    headers, body = PARTS[case]
    with Memory(target) as memory:
        begun = time.monotonic()
        refusal(post(target, headers, body))
        assert time.monotonic() - begun < 5
    assert memory.peak < BOUND


@pytest.mark.parametrize(
    "charset",
    ["idna", "punycode", "undefined", "utf-7", "unicode_escape", "raw_unicode_escape", "utf-16",
     "utf-32", "hex", "zlib", "rot13", "base64", "utf_8_sig", "mbcs", "a" * 900, "..", "latin-1"],
)  # fmt: skip
def test_a_form_in_a_script_of_the_clients_is_no_fault_of_the_servers(target, charset):
    headers, body = form(
        [("prompt", b"\xff\xfe\\ud800 \\q+2AA-"), ("s\\ud800", b"1")],
        [("input_reference", "\\ud800\\x.png", picture())],
    )
    kind = [("Content-Type", f"{headers[0][1]}; charset={charset}")]
    refusal(post(target, kind, body))


@pytest.mark.parametrize("query", QUERIES)
def test_a_page_that_cannot_be_is_refused_in_a_line(target, query):
    content = request("GET", f"/v1/videos?{query}", bearer(target.key))
    refusal(ask(target.port, content))


def test_ranges_that_are_bombs_are_no_more_work_than_the_file(target):
    sent = form([("prompt", "x")], [("input_reference", "a", picture(64))])
    video = json.loads(post(target, *sent).body)["id"]
    path = f"/v1/videos/{video}/content?variant=reference"
    size = len(target.call("GET", path)[2])
    many = ",".join(f"{n}-{n}" for n in range(0, size, 2))[:20_000]
    ranges = (f"bytes={many}", "bytes=" + "0-," * 6000, f"bytes={'0-0,' * 4000}0-0", "bytes=-",
              "bytes=9-1", "bytes=-0", f"bytes={'9' * 999}-", "bytes=a-b", "=", "lines=1-2",
              "bytes=0-99999999999999999999", "bytes=1-1,", "bytes")  # fmt: skip
    with Memory(target) as memory:
        for each in ranges:
            begun = time.monotonic()
            content = request("GET", path, [*bearer(target.key), ("Range", each)])
            answer = parsed(exchange(target.port, content))
            assert answer.status in (200, 206, 400, 416), each
            assert len(answer.body) < 600_000 and time.monotonic() - begun < 5, each
    assert memory.peak < BOUND
    target.call("DELETE", f"/v1/videos/{video}")


def test_a_video_that_goes_while_it_is_asked_for_is_no_fault(target):
    """Reading and deleting at the same time, many times over."""
    seen = Counter()

    def reads(path, stop):
        while not stop.is_set():
            content = request("GET", path, bearer(target.key))
            seen.update(statuses(exchange(target.port, content)))

    for number in range(3):
        answer = post(target, *form([("prompt", "x")], [("input_reference", "a", picture())]))
        video, stop = json.loads(answer.body)["id"], threading.Event()
        path = f"/v1/videos/{video}/content?variant=reference"
        threads = [threading.Thread(target=reads, args=(path, stop)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.2 + 0.05 * number)
        target.call("DELETE", f"/v1/videos/{video}")
        time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {200, 404}, seen


# ---- Too much, and too slow ----------------------------------------------------------------------


def chunked(content, size=1 << 16):
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def test_what_is_too_large_is_refused_before_it_is_read(strict):
    head = [*bearer(strict.key), *JSON]
    length = request("POST", "/v1/videos", [*head, ("Content-Length", "50000000")])
    begun = time.monotonic()
    assert refusal(ask(strict.port, length))["code"] == "too_large"
    assert time.monotonic() - begun < 1
    for told in ("99999999999999999999999999", "4000001"):
        content = request("POST", "/v1/videos", [*head, ("Content-Length", told)])
        assert parsed(exchange(strict.port, content)).status in (400, 413)
    kind, body = form([("prompt", "a")], [("input_reference", "a", bytes(50 * MB))])
    with Memory(strict) as memory:
        for headers, content in ((JSON, bytes(9 * MB)), (kind, body)):
            asked = [*bearer(strict.key), *headers, ("Transfer-Encoding", "chunked")]
            got = exchange(strict.port, request("POST", "/v1/videos", asked) + chunked(content))
            assert 413 in statuses(got) or not got  # it hangs up while it is still being sent to
    print(f"too large, by pieces: {memory}")
    assert memory.peak < BOUND


def test_many_large_pictures_at_once_take_the_memory_of_few(target):
    """Forms and JSON, of noise that does not pack; some are told to come back."""
    noise = random.Random(0).randbytes(7 * MB)
    kind, body = form([("prompt", "a")], [("input_reference", "a", picture() + noise * 2)])
    url = base64.b64encode(picture() + noise).decode()
    text = json.dumps({"input_reference": f"data:image/png;base64,{url}"}).encode()
    with Memory(target) as memory, ThreadPoolExecutor(24) as pool:
        sent = [(kind, body), (JSON, text)] * 12
        answers = list(pool.map(lambda each: post(target, *each, seconds=60), sent))
    counted = Counter(answer.status for answer in answers)
    print(f"many large pictures: {dict(counted)}, {memory}")
    assert set(counted) <= {200, 429} and memory.peak < BOUND


def together(server, names, each, **how):
    """So many slow clients of each kind at once, and meanwhile one that is not: what they got."""
    begins = slow(server)
    with Memory(server) as memory, ThreadPoolExecutor(each * len(names)) as pool:
        waits = {
            n: [pool.submit(drips, server, begins[n], **how) for _ in range(each)] for n in names
        }
        time.sleep(1.0)
        for _ in range(5):
            asked = time.monotonic()
            refusal(post(server, JSON, b'{"prompt": 5}'))
            assert time.monotonic() - asked < 2
        got = {name: [each.result() for each in found] for name, found in waits.items()}
    longest = {name: round(max(took for _, took in found), 1) for name, found in got.items()}
    print(f"slow clients, {each} of each: hung up on after {longest} s; {memory}")
    assert memory.peak < BOUND and max(longest.values()) < 30
    return {name: {each for told, _ in found for each in told} for name, found in got.items()}


def test_slow_bodies_are_told_so_and_keep_nobody_waiting(strict):
    got = together(strict, ("JSON", "form", "no key"), 20, hung_up=False)
    assert got["JSON"] == got["form"] == {408} and got["no key"] <= {401, 429}


@pytest.mark.slow
def test_slow_clients_are_hung_up_on(strict):
    """Headers that do not end, and bodies that nobody waits for any more."""
    got = together(strict, tuple(slow(strict)), 40, hung_up=True)
    assert got["JSON"] == got["form"] == {408} and got["no key"] <= {401, 429}
    assert got["headers"] == got["nothing"] == set()


def test_a_header_of_a_megabyte_is_refused(target):
    for size in (100_000, 1_000_000):
        content = request("GET", "/v1/videos", [*bearer(target.key), ("X-Long", "a" * size)])
        got = statuses(exchange(target.port, content))
        assert got in ([400], [431], [200] if size == 100_000 else [400])
    content = request("GET", "/v1/videos", [("X", "a")] * 100_000)
    assert statuses(exchange(target.port, content)) in ([400], [431], [])


# ---- What the description allows, and what it does not -------------------------------------------


def test_cases_of_the_description_find_no_fault(target):
    described = Described(target)
    described.cases(5)
    described.chains(4)
    print(f"{described.counted.total()} cases: {dict(described.counted)}, {dict(described.linked)}")
    assert described.counted.total() >= 70 and {200, 400, 404} <= set(described.counted)


@pytest.mark.slow
def test_many_cases_of_the_description_find_no_fault(target):
    described = Described(target)
    described.cases(400)
    described.chains(120)
    every = described.counted.total() + described.linked.total()
    print(f"{every} cases: {dict(described.counted)}, in chains {dict(described.linked)}")
    assert every >= 5000
    assert ("GET", "/v1/videos/{video_id}", 200) in described.linked


# ---- Mutated requests ----------------------------------------------------------------------------

AFTER = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def attacked(server, count, lines):
    """Send so many mutated requests over so many connections at once: how often each status came,
    and the requests that were answered as if the server were at fault."""
    counted, faults, lock = Counter(), [], threading.Lock()
    seeds = mutator.valid(server)

    def attacks(number):
        chance = random.Random(number)
        for _ in range(count // lines):
            content = mutator.mutated(chance, seeds)
            got = exchange(server.port, content + AFTER, 2.0)
            with lock:
                counted.update(statuses(got) or ["none"])
                if any(status >= 500 for status in statuses(got)):
                    faults.append((content, got))

    with ThreadPoolExecutor(lines) as pool:
        list(pool.map(attacks, range(lines)))
    return counted, faults


def test_mutated_requests_are_answered_without_a_fault(target):
    with Memory(target) as memory:
        counted, faults = attacked(target, 1500, 6)
    print(f"1500 mutated requests: {dict(counted)}, {memory}")
    assert not faults, faults[:3]
    assert {200, 400, 401, 404} <= set(counted)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_requests(target):
    with Memory(target) as memory:
        counted, faults = attacked(target, 100_000, 16)
    print(f"100000 mutated requests: {dict(counted)}, {memory}")
    assert not faults, faults[:3]
    assert memory.settled < BOUND


def test_connections_are_bounded_and_others_are_told(strict):
    """Nobody's connection is refused without a word, and it is answered again when they go."""
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection((LOOPBACK, strict.port), 10))
        time.sleep(0.3)
        content = request("GET", "/health")
        with socket.create_connection((LOOPBACK, strict.port), 10) as line:
            got = parsed(said(line, content))
        assert got.status == 503 and got.error["code"] == "overloaded"
        assert int(dict(got.headers)["retry-after"]) > 0
    strict.until(lambda: strict.get("/health", public=True)["status"] == "ok", 10)
    assert not re.search("Too many open files", strict.words())
