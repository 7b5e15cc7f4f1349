"""Bodies, addresses and queries that cannot be taken: each by a name that says why."""

from serve.raw import form
from serve.served import picture

JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
MB = 1_000_000


def nested(opening, closing, depth):
    return (f'{{"prompt": {opening * depth}1{closing * depth}}}').encode()


HUGE = b"9" * 4000
BODIES = {
    **{f"{n} deep": (JSON, nested("[", "]", n)) for n in (100, 950, 990, 5000, 100_000)},
    **{f"{n} objects deep": (JSON, nested('{"a":', "}", n)) for n in (950, 990, 40_000)},
    "a number of 4,000 digits": (JSON, b'{"prompt": "a", "seed": ' + HUGE + b"}"),
    "one of 1,000,000": (JSON, b'{"prompt": "a", "seed": ' + b"9" * MB + b"}"),
    "a float beyond all": (JSON, b'{"prompt": "a", "fps": 1e999}'),
    "no number": (JSON, b'{"prompt": "a", "guidance_scale": NaN}'),
    "without end": (JSON, b'{"prompt": "a", "seconds": Infinity}'),
    "negative": (JSON, b'{"prompt": "a", "num_frames": -1}'),
    "far too many frames": (JSON, b'{"prompt": "a", "num_frames": 99999}'),
    "no time at all": (JSON, b'{"prompt": "a", "seconds": 0}'),
    "a size of five digits": (JSON, b'{"prompt": "a", "size": "99996x99996"}'),
    "a size of other digits": (JSON, '{"prompt": "a", "size": "١٦x١٦"}'.encode()),
    "a field twice": (JSON, b'{"prompt": "a", "seed": 1, "seed": "x"}'),
    "a NUL": (JSON, b'{"prompt": "a\\u0000b"}'),
    "half a letter": (JSON, b'{"prompt": "\\ud800"}'),
    "a name of half a letter": (JSON, b'{"prompt": "a", "\\udfff": 1}'),
    "a model of half a letter": (JSON, b'{"prompt": "a", "model": "\\ud800"}'),
    "a picture of half a letter": (JSON, b'{"prompt": "a", "input_reference": "\\ud800"}'),
    "bytes that are no letters": (JSON, b'{"prompt": "\xff\xfe"}'),
    "no JSON": (JSON, b"prompt=a"),
    "a list": (JSON, b"[]"),
    "a text": (JSON, b'"prompt"'),
    "a body of nothing": (JSON, b""),
    "3,000,000 lists": (JSON, b'{"a": [' + b"[]," * 3_000_000 + b"1]}"),
    "1,000,000 fields": (JSON, b"{" + b",".join(b'"f%d":0' % n for n in range(MB // 2)) + b"}"),
    "a prompt of 9 MB": (JSON, b'{"prompt": "' + b"a" * 9 * MB + b'"}'),
    "a data URL in a data URL": (JSON, b'{"input_reference": "data:image/png;base64,' * 9 + b'"}'),
    "12 MB of JSON": (JSON, b'{"prompt": "' + b"a" * 12 * MB + b'"}'),
    "10,000 form fields": (FORM, b"&".join(b"f%d=1" % n for n in range(10_000))),
    "a form field of 1 MB": (FORM, b"prompt=" + b"a" * MB),
    "a form of nothing but signs": (FORM, b"&;=%" * 50_000),
    "a form field twice": (FORM, b"prompt=a&prompt=b"),
    "a nested field that is flat too": (FORM, b"input_reference=a&input_reference[image_url]=b"),
    "a nested prompt": (FORM, b"prompt[a]=b"),
    "no form after all": ([("Content-Type", "multipart/form-data")], b"x" * 1000),
    "an empty boundary": ([("Content-Type", 'multipart/form-data; boundary=""')], b"--\r\n"),
    "a long boundary": ([("Content-Type", f"multipart/form-data; boundary={'b' * 9000}")], b"x"),
    "another kind": ([("Content-Type", "text/plain")], b"prompt"),
    "XML": ([("Content-Type", "application/xml")], b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///'>]>"),
    "no kind": ([], b"prompt=a"),
    "packed": ([*JSON, ("Content-Encoding", "gzip")], b"\x1f\x8b" + bytes(100)),
}  # fmt: skip
KIND, OPEN = form([])[0], b"--x1y2z3\r\n"
PARTS = {
    "40,000 parts": form([(f"f{n}", 1) for n in range(40_000)]),
    "two files": form([], [("input_reference", "a", picture())] * 2),
    "a file elsewhere": form([("prompt", "a")], [("prompt", "a", picture())]),
    "a file in a nested field": form([], [("input_reference[image_url]", "a", picture())]),
    "a NUL": form([("prompt", b"a\0b")]),
    "no name": form([("", "a")]),
    "a part without an end": (KIND, OPEN + b'Content-Disposition: form-data; name="a"\r\n\r\n'),
    "a part that ends early": (KIND, form([("prompt", "a")])[1][:-9]),
    "a part without a name": (KIND, OPEN + b"Content-Type: a\r\n\r\nb\r\n--x1y2z3--\r\n"),
    "500,000 headers of a part": (KIND, OPEN + b"a:b\r\n" * 500_000),
    "a header of 9 MB": (KIND, OPEN + b"a:" + b"b" * 9 * MB + b"\r\n\r\n"),
    "lines without end": (KIND, b"\r\n" * 500_000),
}  # fmt: skip
QUERIES = (
    "limit=-1", "limit=0", "limit=101", "limit=99999999999999999999", f"limit={'9' * 9000}",
    "limit=",
    "limit=1e3", "limit=NaN", "limit=%00", "limit=0x10", "limit=1.5", "order=%00", "order=asc%0a",
    "after=%00", "after=%ff", "after=%ed%a0%80", f"after={'a' * 64}", f"after={'a' * 9000}",
    "after=",
    "after=video_%00", "order=", "limit=true", "limit[]=1&limit=x", "order=desc&order=x",
)  # fmt: skip


def addresses(port):
    here = f"127.0.0.1:{port}"
    return [
        f"http://{here}/a.png", f"https://{here}/a.png", f"ftp://{here}/a.png", f"//{here}/a.png",
        f"gopher://{here}/_GET", f"HTTP://{here}", f"http:\\\\{here}\\a.png", f"http:/{here}",
        f"http://localhost:{port}", f"http://[::1]:{port}", f"http://2130706433:{port}/",
        f"http://0x7f000001:{port}", f"http://127.1:{port}", f"http://a@{here}",
        f"http://{here}#@a",
        f"http://example.com@{here}", f"\\\\{here}\\share\\a.png", f"smb://{here}/a",
        f" http://{here}",
        f"\thttp://{here}", f"http://{here}/%0d%0aX: y", f"dict://{here}/", f"ldap://{here}/",
        f"jar:http://{here}!/", f"url:http://{here}", f"rtsp://{here}/", f"tcp://{here}",
        f"ws://{here}",
        "file:///etc/passwd", "file://localhost/etc/passwd", "/etc/passwd", "C:\\a.png", "a.png",
        "",
        f"data:text/html,<img src=http://{here}>", f"data:image/svg+xml;base64,{here}",
        f"data:image/png,http://{here}", f"data:image/png;base64,http://{here}", "data:", "data:,",
        "data:image/gif;base64,R0lGOD==", "data:image/png;charset=x;base64,AAAA",
        "data:image/png;base64,",
        "blob:http://a/b", "javascript:alert(1)", "concat:/etc/passwd|a",
        "ffconcat version 1.0\nfile x",
        "data:image/png;base64,****", "data:image/png;base64,AAAA\nAAAA", "data:image/png;base64,é",
    ]  # fmt: skip
