"""How one would try to get at what is another's: ids, keys, paths and whole requests, written in
all the ways that a careless program reads otherwise than its guard."""

from urllib.parse import quote

from serve.raw import bearer


def written(video):
    """The ways to write an id in a path."""
    fullwidth = "".join(chr(ord(letter) + 0xFEE0) for letter in video)
    encoded = "".join(f"%{ord(letter):02x}" for letter in video)
    return [
        video, video.upper(), video.title(), encoded, encoded.upper(), quote(encoded),
        video.replace("_", "%5F"), video.replace("_", "%5f"), video.replace("_", "%255f"),
        f"{video}%20", f"%20{video}", f"{video}%00", f"{video}%00.mp4", f"{video}%0a", f"{video}+",
        f"{video}.mp4", f"{video}.json", f"{video};x=1", f"{video},", f"{video}%2f", f"{video}%2f.",
        f"./{video}", f"x/../{video}", f"%2e/{video}", f"..%2f{video}", f"..%2fvideos%2f{video}",
        f"/{video}", f"//{video}", f"{video}/", f"{video}//", f"{video}/.", f"{video}#x",
        video[6:], f"VIDEO_{video[6:]}", video[:-1], f"{video}0", f"{video[:-1]}%25", f"{video}*",
        quote(fullwidth), f"{video}%CC%81", f"%EF%BB%BF{video}", f"video_%{video[6:]}",
        f"video_\\{video[6:]}", f"{video},{video}", f"%27%20or%20id=%27{video}",
    ]  # fmt: skip


def targets(template, video):
    """Paths of a route for each way to write an id, and queries that name it otherwise."""
    head, _, tail = template.partition("{")
    tail = tail.partition("}")[2]
    found = [f"{head}{each}{tail}" for each in written(video)]
    if tail == "/content":
        variants = ("video", "thumbnail", "spritesheet", "reference", "", "../video", "VIDEO")
        found += [f"{head}{video}{tail}?variant={each}" for each in variants]
    return [*found, f"{head}x{tail}?video_id={video}&id={video}"]


def credentials(house):
    """Headers that are no good key. The good one is bob's."""
    good = house.bob
    _, key, secret = good.split("_")
    other = house.mallory.split("_")
    wrong = [
        "", " ", "null", "undefined", "vdm", "vdm_", "vdm__", f"vdm_{key}", f"vdm_{key}_", secret,
        f"{key}_{secret}", f"_{key}_{secret}", good[1:], good[:-1], good[:-32], good + "0",
        good + "_", good + ".", good + ",", good + ";", good + "=", "x" + good, good.upper(),
        f"vdm_{key.upper()}_{secret}", f"vdm_{key}_{secret.upper()}", f"VDM_{key}_{secret}",
        f"vdm-{key}-{secret}", f"vdm_{key}_{'0' * 64}", f"vdm_{key}_{'f' * 64}",
        f"vdm_{key}_{secret[::-1]}", f"vdm_{other[1]}_{secret}", f"vdm_{key}_{other[2]}",
        f"vdm_{'0' * 16}_{secret}", f"vdm_{key}_{secret} x", f"{good} {good}", f"{good},{good}",
        f'"{good}"', f"'{good}'", f"<{good}>", f"{good}\x00", f"{good}%00", f"{good}%20",
        quote(good, safe="").replace("_", "%5F"), good.replace("_", "\\_"), f"{good}\udcff",
        "*", "%", "_" * 84, "' or '1'='1", "vdm_%_%", f"vdm_{key}_%", "A" * 5000,
        house.revoked, house.expired, house.rotated, house.foreign,
    ]  # fmt: skip
    named = [("Authorization", f"Bearer {each}") for each in wrong]
    schemes = (
        "Basic", "Digest", "Token", "Negotiate", "Bearerr", "earer", "Bearer:", "Bearer,",
        "Bearer=", "ApiKey", "OAuth", "Bearer Bearer", "HOBA", "key",
    )  # fmt: skip
    named += [("Authorization", f"{scheme} {good}") for scheme in schemes]
    named += [("Authorization", good), ("Authorization", f"Bearer{good}"), ("Authorization", "")]
    named += [("Authorization", f"Bearer\t{good}"), ("Authorization", f"Bearer\u00a0{good}")]
    elsewhere = (
        "X-Api-Key", "Api-Key", "X-Authorization", "Proxy-Authorization", "X-Auth-Token", "Token",
        "X-Forwarded-Authorization", "Authentication", "Authorization-", "X-Amzn-Oidc-Data",
        "Sec-WebSocket-Protocol", "Authorization_", "WWW-Authenticate", "OpenAI-Organization",
    )  # fmt: skip
    named += [(name, f"Bearer {good}") for name in elsewhere]
    named += [(name, good) for name in ("X-Api-Key", "Api-Key", "Openai-Api-Key")]
    cookies = ("Authorization", "token", "session", "api_key")
    named += [("Cookie", f"{name}={good}") for name in cookies]
    trust = (
        ("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health"), ("X-Real-IP", "127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"), ("X-Forwarded-User", "a"),
        ("X-Forwarded-Host", "localhost"), ("X-Forwarded-Prefix", "/health"), ("Via", "1.1 x"),
        ("X-HTTP-Method-Override", "GET"), ("X-Method-Override", "HEAD"), ("X-Remote-User", "root"),
        ("Origin", "http://127.0.0.1"), ("Referer", "http://127.0.0.1/health"),
        ("Range", "bytes=0-"),
        ("Expect", "100-continue"), ("Sec-Fetch-Site", "same-origin"), ("X-Internal", "1"),
    )  # fmt: skip
    doubled = [bearer(good) * 2, [*bearer("x"), *bearer(good)], [*bearer(good), *bearer("x")]]
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"),
               ("Sec-WebSocket-Key", "A" * 22 + "=="), ("Sec-WebSocket-Version", "13")]  # fmt: skip
    return [[], *([each] for each in (*named, *trust)), *doubled, upgrade]


def disguised(path):
    """Other ways to write a path, none of which is a public one."""
    once = f"%{ord(path[1]):02x}{path[2:]}"
    return [
        f"/{path}", f"//{path}", f"/.{path}", f"/x/..{path}", f"/health/..{path}",
        f"/health/%2e%2e{path}", f"/page.css/..{path}", f"/health/..%2f{path[1:]}", f"/{once}",
        f"{path};x", f"{path};/health", f"{path}%3b/health", f"{path}/", f"{path}//", f"{path}/.",
        f"{path}%00", f"{path}%00/health", f"{path}%3f/health", f"{path}%23/health",
        f"{path}?/health",
        f"{path}?x=/page.css", f"{path}#/health", f"{path}%0d%0a/health",
        f"{path}/../health/..{path}",
        f"{path}.css", f"{path}/page.css", path.upper(), f"/\\{path[1:]}", path.replace("/", "\\"),
        path[1:], f"http://127.0.0.1{path}", f"http://127.0.0.1/health/..{path}", f"*{path}",
        f"/%2e{path}", f"/;{path}", f"/health;{path}", f"/health%2f..{path}", f"{path}?key=vdm_",
    ]  # fmt: skip


MALFORMED = {
    "no version": b"GET %s\r\n\r\n",
    "HTTP/0.9": b"GET %s HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n",
    "HTTP/1.0 without a host": b"GET %s HTTP/1.0\r\n\r\n",
    "HTTP/2.0": b"GET %s HTTP/2.0\r\nHost: a\r\nConnection: close\r\n\r\n",
    "no host": b"GET %s HTTP/1.1\r\n\r\n",
    "two hosts": b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n",
    "bare line feeds": b"GET %s HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n",
    "a folded header": (
        b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer\r\n KEY\r\n\r\n"
    ),
    "a blank before the colon": b"GET %s HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer KEY\r\n\r\n",
    "a header of its own line": (
        b"GET %s HTTP/1.1\r\nHost: a\r\nX: y\rAuthorization: Bearer KEY\r\n\r\n"
    ),
    "tabs between": b"GET\t%s\tHTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "smuggled": (
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ),
    "smuggled behind a length": (
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 50\r\n\r\n"
        b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    "pipelined behind a public one": (
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ),
    "pipelined behind one with a key": (
        b"GET /v1/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer GOOD\r\n\r\n"
        b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ),
}
