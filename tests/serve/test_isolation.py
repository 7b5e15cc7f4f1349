"""What a key can learn of another's videos, and a stranger of anything: nothing."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import mannwhitneyu
from serve.house import CANARY, House, app_of, ends
from serve.raw import Line, ask, bearer, exchange, form, request, statuses
from serve.strangers import MALFORMED, credentials, disguised, targets, written

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "PROPFIND")
PUBLIC = {
    "/", "/index.html", "/page.css", "/health", "/ready",
    *(f"/{each}.js" for each in (
        "api", "form", "gallery", "knobs", "list", "page", "picture", "queue", "viewer", "words",
    )),
}  # fmt: skip
GATED = {
    "/v1/videos", "/v1/videos/{video_id}", "/v1/videos/{video_id}/content",
    "/v1/videos/{video_id}/remix", "/v1/videos/edits", "/v1/videos/extensions",
    "/v1/videos/characters", "/v1/images/generations", "/v1/models", "/v1/models/{model_id}",
    "/v1/me", "/openapi.json", "/metrics",
}  # fmt: skip
REFUSED = (400, 401, 429)
JSON = [("Content-Type", "application/json")]


@pytest.fixture(scope="module")
def house(tiny, tmp_path_factory):
    made = House(tiny, tmp_path_factory.mktemp("house"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(tiny, tmp_path_factory):
    with app_of(tiny, tmp_path_factory.mktemp("app")) as made:
        yield made


def routes(app):
    """(path, methods) of each, as the program has them."""
    return sorted((each.path, tuple(sorted(each.methods))) for each in ends(app))


def test_every_route_is_public_by_name_or_known_to_need_a_key(app):
    assert {path for path, _ in routes(app)} == PUBLIC | GATED


# ---- Another's videos ----------------------------------------------------------------------------


def body_for(method):
    return (JSON, b'{"prompt": "mine now"}') if method not in ("GET", "HEAD") else ([], b"")


def test_answers_for_anothers_video_are_those_for_one_that_never_was(house, app):
    """Every route with a place for an id, every method, every way to write it, in every state."""
    before = house.seen_by_owner()
    templates = [path for path, _ in routes(app) if "{" in path]
    tried, leaks, answered = 0, [], {}
    with Line(house.port) as line:
        for template in templates:
            for method in METHODS if "video_id" in template else METHODS[:6]:
                headers, body = body_for(method)
                for number, unknown in enumerate(targets(template, house.unknown)):
                    there = list(house.videos)[(number + len(method)) % len(house.videos)]
                    theirs = targets(template, house.videos[there])[number]
                    asked = [*bearer(house.mallory), *headers]
                    never = line.ask(method, unknown, asked, body)
                    answer = line.ask(method, theirs, asked, body)
                    tried += 1
                    answered[answer.status] = answered.get(answer.status, 0) + 1
                    if answer != never or answer.status < 400 or answer.status >= 500:
                        leaks.append((method, there, theirs, answer, never))
    assert not leaks, leaks[:5]
    print(f"{tried} attempts on another's video, answered {answered}")
    assert tried >= 2000 and house.seen_by_owner() == before


def test_a_list_goes_on_behind_no_video_of_another(house):
    tried = 0
    with Line(house.port) as line:
        for query in ("order=asc", "order=desc&limit=1", "order=ASC"):
            for state, video in house.videos.items():
                pairs = zip(written(video), written(house.unknown), strict=True)
                for theirs, never in pairs:
                    path, asked = f"/v1/videos?{query}&after=", bearer(house.mallory)
                    answer, other = (line.ask("GET", path + v, asked) for v in (theirs, never))
                    assert answer == other, (state, theirs)
                    assert answer.status == 400 or b'"data":[]' in answer.body
                    tried += 1
        listed = line.ask("GET", "/v1/videos?limit=100", bearer(house.mallory))
        assert json.loads(listed.body)["data"] == []
    print(f"{tried} attempts by `after`")
    assert tried >= 500


def test_what_a_request_repeats_is_looked_for_among_the_keys_own(house):
    """Another's Idempotency-Key, or body that is said to be sent again, makes a video of one's own,
    and for the other it still means the other's."""
    body = json.dumps({"prompt": f"{CANARY} again", "seed": 5}).encode()
    headers = [*JSON, ("Idempotency-Key", "alices")]
    with Line(house.port) as line:
        made = json.loads(line.ask("POST", "/v1/videos", bearer(house.alice) + headers, body).body)
        for extra in (headers, [*JSON, ("x-stainless-retry-count", "1")]):
            answer = line.ask("POST", "/v1/videos", bearer(house.mallory) + extra, body)
            own = json.loads(answer.body)
            assert answer.status == 200 and own["id"] != made["id"]
            gone = line.ask("DELETE", f"/v1/videos/{own['id']}", bearer(house.mallory))
            assert gone.status == 200
        other = b'{"prompt": "no conflict that tells"}'
        answer = line.ask("POST", "/v1/videos", bearer(house.bob) + headers, other)
        assert answer.status == 200
        own = json.loads(answer.body)["id"]
        line.ask("DELETE", f"/v1/videos/{own}", bearer(house.bob))
        again = line.ask("POST", "/v1/videos", bearer(house.alice) + headers, body)
        assert json.loads(again.body)["id"] == made["id"]
        line.ask("DELETE", f"/v1/videos/{made['id']}", bearer(house.alice))


def test_usage_and_places_say_nothing_of_others(house):
    with Line(house.port) as line:
        me = json.loads(line.ask("GET", "/v1/me", bearer(house.bob)).body)
        models = line.ask("GET", "/v1/models", bearer(house.bob)).body
    assert me["usage"]["active_videos"] == 0
    assert not any(word in models for word in house.words)


@pytest.mark.parametrize("method, tail", [("GET", ""), ("GET", "/content"), ("DELETE", "")])
def test_the_time_of_an_answer_says_nothing(house, method, tail):
    """A rank test; chance alone would pass a leak of none through three of them in a row."""
    video = house.videos["completed"]

    def p_value():
        times = {video: [], house.unknown: []}
        with Line(house.port) as line:
            for number in range(2 * 200):
                asked = (video, house.unknown)[number % 2]
                begun = time.perf_counter()
                line.ask(method, f"/v1/videos/{asked}{tail}", bearer(house.mallory))
                times[asked].append(time.perf_counter() - begun)
        return mannwhitneyu(*times.values()).pvalue

    found = []
    while len(found) < 3 and (not found or found[-1] <= 0.01):
        found.append(p_value())
    print(f"{method} {tail}: p = {found}")
    assert found[-1] > 0.01


# ---- Strangers -----------------------------------------------------------------------------------


def test_no_form_of_a_key_that_is_none_passes(house, app):
    """Every route and method of the program, with every credential that is not one, by hand."""
    passed, tried, answered = [], 0, {}
    gated = [
        (path.format(video_id=house.videos["completed"], model_id="tiny"), method)
        for path, methods in routes(app) if path not in PUBLIC for method in methods
    ]  # fmt: skip
    forms = credentials(house)
    assert len(forms) >= 100
    for path, method in gated:
        for headers in forms:
            answer = ask(house.port, request(method, path, headers))
            tried += 1
            answered[answer.status] = answered.get(answer.status, 0) + 1
            if answer.status not in REFUSED or house.told(answer.body):
                passed.append((method, path, headers, answer))
    assert not passed, passed[:5]
    print(f"{len(forms)} forms of no key on {len(gated)} routes: {tried}, answered {answered}")


def test_no_way_to_write_a_path_passes_without_a_key(house, app):
    passed, tried = [], 0
    for template in sorted(GATED):
        path = template.format(video_id=house.videos["completed"], model_id="tiny")
        queries = [f"{path}?{name}={house.bob}" for name in ("key", "api_key", "access_token")]
        for target in (*disguised(path), *queries):
            for method in ("GET", "HEAD", "POST"):
                answer = ask(house.port, request(method, target))
                tried += 1
                if answer.status not in REFUSED or house.told(answer.body):
                    passed.append((method, target, answer))
        for method in METHODS:
            answer = ask(house.port, request(method, path))
            tried += 1
            if answer.status not in REFUSED:
                passed.append((method, path, answer))
    for path in sorted(PUBLIC):
        for method in METHODS[2:]:
            answer = ask(house.port, request(method, path))
            tried += 1
            if answer.status not in REFUSED:
                passed.append((method, path, answer))
    assert not passed, passed[:5]
    print(f"{tried} disguised paths and methods")


@pytest.mark.parametrize("case", MALFORMED)
def test_no_malformed_request_passes_without_a_key(house, case):
    for template in sorted(GATED - {"/v1/me"}):
        path = template.format(video_id=house.videos["completed"], model_id="tiny")
        content = MALFORMED[case].replace(b"%s", path.encode())
        content = content.replace(b"KEY", house.bob[:-1].encode())
        got = exchange(house.port, content.replace(b"GOOD", house.bob.encode()), 0.3)
        first, *rest = statuses(got) or [400]
        assert first in REFUSED or "pipelined" in case, (path, got)
        assert all(status in REFUSED for status in rest) and not house.told(got), (path, got)


def test_a_good_key_is_taken_in_every_form_that_http_allows(house):
    """So that the others were refused for what they are."""
    forms = [bearer(house.bob), [("authorization", f"bearer {house.bob}")],
             [("AUTHORIZATION", f"BEARER   {house.bob}  ")]]  # fmt: skip
    for headers in forms:
        assert ask(house.port, request("GET", "/v1/me", headers)).status == 200


def test_a_key_has_its_rights_and_no_more(house, app):
    rights = {"read": "videos:read", "write": "videos:write", "metrics": "metrics"}
    allowed = {name: set() for name in rights}
    for path, methods in routes(app):
        if path in PUBLIC:
            continue
        for method in methods:
            for name in rights:
                target = path.format(video_id=house.unknown, model_id="tiny")
                answer = ask(house.port, request(method, target, bearer(house.scoped[name])))
                if answer.status == 403:
                    assert answer.error["code"] == "insufficient_scope"
                    assert f"no scope videos:{name}" not in answer.error["message"]
                else:
                    allowed[name].add((path, method))
    assert allowed["metrics"] == {("/metrics", "GET")}
    assert all(method == "GET" for _, method in allowed["read"])
    assert all(method in ("POST", "DELETE") for _, method in allowed["write"])
    both = allowed["read"] | allowed["write"] | allowed["metrics"]
    assert both == {(p, m) for p, methods in routes(app) if p not in PUBLIC for m in methods}


def test_a_revoked_key_is_dead_at_once(house):
    """Also for a connection that is kept and asks all the time."""
    key, begun, answered = house.new("short"), threading.Event(), []

    def asks():
        with Line(house.port) as line:
            for _ in range(20_000):
                answered.append((time.monotonic(), line.ask("GET", "/v1/me", bearer(key)).status))
                begun.set()
                if answered[-1][1] != 200:
                    return

    threads = [threading.Thread(target=asks) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    time.sleep(0.3)
    house.keys.revoke(key.split("_")[1])
    revoked = time.monotonic()
    for thread in threads:
        thread.join(30)
    good = [when for when, status in answered if status == 200]
    assert max(good) - revoked <= 1 and len(good) > 20
    assert len([status for _, status in answered if status in REFUSED]) == 3
    print(f"dead {max(0.0, max(good) - revoked):.3f} s after it was revoked")


# ---- Secrets -------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_request_is_said_without_repeating_it(house):
    said = []
    bodies = [
        {"prompt": CANARY * 401}, {"prompt": f"{CANARY}\0"}, {"prompt": [CANARY]},
        {"prompt": {"a": CANARY}}, {"prompt": CANARY, "seed": CANARY}, {"size": CANARY},
        {"prompt": CANARY, "model": CANARY}, {"input_reference": CANARY},
        {"input_reference": f"data:image/png;base64,{CANARY}!"}, {"input_reference": {CANARY: "x"}},
        {"prompt": CANARY, "seconds": CANARY}, {"prompt": CANARY, "fps": [CANARY]}, [CANARY],
        {"prompt": CANARY, "motion_bucket_id": CANARY}, {"prompt": CANARY, "lora": CANARY},
    ]  # fmt: skip
    for body in bodies:
        content = json.dumps(body).encode()
        asked = [*bearer(house.alice), *JSON]
        for path in ("/v1/videos", f"/v1/videos/{house.videos['completed']}/remix"):
            said.append(ask(house.port, request("POST", path, asked, content)))
    broken = json.dumps({"prompt": CANARY}).encode()[:-3]
    said.append(
        ask(house.port, request("POST", "/v1/videos", [*bearer(house.alice), *JSON], broken))
    )
    kind, content = form([("prompt", CANARY)] * 2, [("input_reference", CANARY, CANARY.encode())])
    said.append(ask(house.port, request("POST", "/v1/videos", bearer(house.alice) + kind, content)))
    headers = [*bearer(house.alice), *JSON, ("Idempotency-Key", CANARY * 26)]
    said.append(ask(house.port, request("POST", "/v1/videos", headers, b'{"prompt": "a"}')))
    for target in (f"/v1/{CANARY}", f"/v1/models/{CANARY}", f"/v1/videos?order={CANARY}"):
        said.append(ask(house.port, request("GET", target, bearer(house.alice))))
    assert all(400 <= answer.status < 500 for answer in said), [a for a in said if a.status < 400]
    for answer in said:
        assert CANARY.encode() not in answer.body and answer.body.count(b"\n") == 0
        assert len(answer.error["message"]) < 300


def test_a_fault_is_told_by_its_number_alone(house):
    """The store breaks; its words hold what it was given, and stay where they are."""
    with house.broken_store():
        fields = {"prompt": f"{CANARY} of a fault"}
        asked = [*bearer(house.alice), *JSON, ("Idempotency-Key", f"{CANARY}-key")]
        answer = ask(house.port, request("POST", "/v1/videos", asked, json.dumps(fields).encode()))
    assert answer.status == 500 and "req_" in answer.error["message"]
    assert not house.told(answer.body) and b"sqlite" not in answer.body.lower()
    assert "fault" in (house.server.data / "log.txt").read_text()


def test_no_secret_is_found_anywhere(house):
    """After all of the above: in logs, numbers, process listings, and the store's own files."""
    numbers = ask(house.port, request("GET", "/metrics", bearer(house.scoped["metrics"])))
    assert numbers.status == 200 and b"vdm_requests" in numbers.body
    assert ask(house.port, request("GET", "/metrics")).status in REFUSED
    data = house.server.data
    words = [data / "log.txt", data / "audit.log", data / "said.txt", data / "port"]
    store = sorted(data.glob("jobs.sqlite*"))
    processes = house.processes()
    assert len(store) >= 2 and len(processes) >= 2 and (data / "audit.log").stat().st_size > 1000
    listed = {f"{p} {name}": Path(f"/proc/{p}/{name}").read_bytes()
              for p in processes for name in ("cmdline", "environ")}  # fmt: skip
    contents = {path.name: path.read_bytes() for path in words} | listed
    contents["metrics"] = numbers.body
    for name, content in contents.items():
        for word in (*house.secrets, *house.words):
            assert word not in content, (name, word[:8])
    for path in store:
        content = path.read_bytes()
        assert not any(secret in content for secret in house.secrets), path.name
    assert (data / "secret").stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in (data / "audit.log").read_text().splitlines()]
    keys = {line["key"] for line in lines}
    assert house.alice.split("_")[1] in keys and None in keys
    assert {"time", "request", "key", "client", "method", "route", "job", "status"} >= set(lines[0])


def test_the_digest_of_a_key_needs_the_servers_secret(house):
    other = replace_pepper(house.keys)
    assert house.keys.caller(house.alice) is not None and other.caller(house.alice) is None


def replace_pepper(keys):
    from vdm_jax.serve.config import Quota
    from vdm_jax.serve.store.keys import Keys

    return Keys(keys._database, b"\0" * 32, replace(Quota()))
