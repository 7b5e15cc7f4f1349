"""A server that has no key yet answers this machine alone; its first key shuts the door."""

import pytest
from serve.house import LITTLE
from serve.raw import ask, bearer, exchange, form, parsed, request
from serve.served import Server, picture


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory):
    server = Server(tiny, tmp_path_factory.mktemp("opened"), *LITTLE, "--workers", "0", keyed=False)
    yield server.start(ready=False)
    server.stop()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:8000",
     "127.0.0.1@evil.example", "localhost:80:80", "127.0.0.1:", "0.0.0.0", "[::]", "127.1",
     "169.254.169.254", "localhost.", "LOCALHOST.evil", "127.0.0.1:123456", "xlocalhost", ""],
)  # fmt: skip
def test_without_keys_only_this_machines_names_are_answered(opened, host):
    for method, path in (("GET", "/v1/videos"), ("POST", "/v1/videos"), ("GET", "/metrics")):
        answer = ask(opened.port, request(method, path, host=host))
        assert answer.status == 403 and answer.error["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1"},
     {"Origin": "http://127.0.0.1:1"}, {"Origin": "http://127.0.0.1.evil.example"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "x"},
     {"Origin": "http://localhost:{port}"}, {"Origin": "chrome-extension://127.0.0.1:{port}x"}],
)  # fmt: skip
def test_without_keys_no_other_sites_page_is_answered(opened, headers):
    """A form that is sent from elsewhere, which asks no browser for leave."""
    kind, body = form([("prompt", "by another site")], [("input_reference", "a.png", picture())])
    named = [(name, value.format(port=opened.port)) for name, value in headers.items()]
    host = f"127.0.0.1:{opened.port}"
    for method, path in (("POST", "/v1/videos"), ("GET", "/v1/videos"), ("GET", "/v1/me")):
        answer = ask(opened.port, request(method, path, named + kind, body, host=host))
        assert answer.status == 403 and answer.error["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in dict(answer.headers)


def test_without_keys_this_machine_is_answered_and_http_1_0_without_a_name_is_not(opened):
    host = f"127.0.0.1:{opened.port}"
    own = [("Origin", f"http://{host}"), ("Sec-Fetch-Site", "same-origin")]
    assert ask(opened.port, request("GET", "/v1/me", own, host=host)).status == 200
    assert ask(opened.port, request("GET", "/v1/me", host="localhost")).status == 200
    assert parsed(exchange(opened.port, b"GET /v1/me HTTP/1.0\r\n\r\n")).status == 403
    given = request("GET", "/v1/me", bearer("vdm_none"), host=host)
    assert ask(opened.port, given).status == 200  # OpenAI's client must send one


def test_a_key_that_is_made_while_it_runs_shuts_the_door(tiny, opened):
    assert ask(opened.port, request("GET", "/v1/me")).status == 200
    house_key = opened.keys("create", "--name", "first")
    assert ask(opened.port, request("GET", "/v1/me")).status == 401
    assert ask(opened.port, request("GET", "/v1/me", bearer(house_key))).status == 200
    opened.keys("revoke", "--key", house_key.split("_")[1])
    assert ask(opened.port, request("GET", "/v1/me")).status == 401  # it stays shut


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_is_refused_without_keys(tiny, tmp_path, host):
    server = Server(tiny, tmp_path / "data", "--host", host, *LITTLE, keyed=False)
    with pytest.raises(AssertionError, match="there is no key yet"):
        server.start(ready=False)
    assert server.process.wait(10) == 2
