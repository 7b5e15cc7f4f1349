"""The page of a study, to this machine only: who asks is shown videos without names, and chooses.

A client names a rater and the number of a question in that rater's plan, never a file; it learns
no model's name. Only loopback hosts are answered (a page elsewhere cannot reach in by a name that
resolves to this machine), only below a random path, and a refusal is one line and changes nothing.
"""

import hmac
import json
import os
import re
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, cast

from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.prefer.study import Study, Trial
from vdm_jax.evaluate.prefer.votes import CHOICES, UNDO, Ledger, Vote, now, standing

BODY = 4096  # bytes of a request at most
DRAINED = 1 << 20  # bytes read of a longer one, so that its sender hears the answer
SILENT = 30  # seconds that a client may say nothing
LONGEST = 24 * 3600 * 1000  # milliseconds of a choice at most
RATER = re.compile(r"[\w.\-]+(?: [\w.\-]+)*")
RATER_LENGTH = 40
LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
SIDES = ("left", "right", "image")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " media-src blob:; img-src blob: data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Media(NamedTuple):
    path: Path
    kind: str  # the MIME type


class Subject(NamedTuple):
    """What is shown of one name: each model's video, the words and the picture they began from."""

    videos: Mapping[str, Media]
    prompt: str
    image: Media | None


class Denied(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Poll:
    """The raters' places in their plans, and their choices; calls may come from any thread."""

    def __init__(
        self,
        study: Study,
        subjects: Mapping[str, Subject],
        ledger: Ledger,
        votes: list[Vote],
        say: Callable[[str], None],
    ) -> None:
        self._study, self._subjects, self._ledger, self._say = study, subjects, ledger, say
        self._standing = standing(votes)
        self._plans: dict[str, list[Trial]] = {}
        self._lock = threading.Lock()

    def place(self, rater: str) -> dict[str, Any]:
        """The question that the rater is at, and what surrounds it; no model is named."""
        with self._lock:
            return self._place(rater)

    def vote(self, rater: str, number: object, choice: object, ms: object) -> dict[str, Any]:
        if choice not in CHOICES[: 3 if self._study.ties else 2]:
            raise Denied(HTTPStatus.BAD_REQUEST, "no such choice")
        if type(ms) is not int or not 0 <= ms <= LONGEST:
            raise Denied(HTTPStatus.BAD_REQUEST, "milliseconds must be a whole number")
        with self._lock:
            trial = self._current(rater, number, 0)
            self._add(rater, trial, str(choice), ms)
            place = self._place(rater)
        if place["done"]:
            self._say(f"{rater}: all {place['of']} answered")
        return place

    def undo(self, rater: str, number: object) -> dict[str, Any]:
        with self._lock:
            self._add(rater, self._current(rater, number, -1), UNDO, 0)
            return self._place(rater)

    def media(self, rater: str, number: str, side: str) -> Media:
        with self._lock:
            plan = self._plan(rater)
        if not re.fullmatch(r"\d{1,6}", number) or int(number) >= len(plan) or side not in SIDES:
            raise Denied(HTTPStatus.NOT_FOUND, "no such video")
        shown = plan[int(number)].shown
        subject = self._subjects[shown.name]
        found = subject.image
        if side != "image":
            found = subject.videos[shown.left if side == "left" else shown.right]
        if found is None:
            raise Denied(HTTPStatus.NOT_FOUND, "no such picture")
        return found

    def _plan(self, rater: str) -> list[Trial]:
        if len(rater) > RATER_LENGTH or not RATER.fullmatch(rater):
            why = f"A name has at most {RATER_LENGTH} letters, digits, dots, dashes and spaces."
            raise Denied(HTTPStatus.BAD_REQUEST, why)
        if rater in self._plans:
            return self._plans[rater]
        plan = self._study.plan(rater)
        if len(self._plans) < 1000:  # the rest is made again at each call
            self._plans[rater] = plan
        return plan

    def _at(self, rater: str) -> int:
        """The first question without an answer."""
        plan = self._plan(rater)
        open_ones = (
            i for i, trial in enumerate(plan) if _about(rater, trial) not in self._standing
        )
        return next(open_ones, len(plan))

    def _current(self, rater: str, number: object, offset: int) -> Trial:
        plan, at = self._plan(rater), self._at(rater)
        if type(number) is not int or number != at:
            raise Denied(HTTPStatus.CONFLICT, f"question {at} is the open one")
        if not 0 <= at + offset < len(plan):
            raise Denied(HTTPStatus.CONFLICT, "there is none")
        return plan[at + offset]

    def _add(self, rater: str, trial: Trial, choice: str, ms: int) -> None:
        name, left, right = trial.shown
        vote = Vote(
            time=now(),
            rater=rater,
            question=trial.question,
            name=name,
            left=left,
            right=right,
            choice=choice,
            milliseconds=ms,
        )
        try:
            self._ledger.add(vote)
        except OSError as fault:
            self._say(f"a vote could not be written: {fault.strerror}")
            why = "the choice could not be stored; try again"
            raise Denied(HTTPStatus.INSUFFICIENT_STORAGE, why) from fault
        self._standing.pop(vote.about, None)
        if choice != UNDO:
            self._standing[vote.about] = vote

    def _place(self, rater: str) -> dict[str, Any]:
        plan, at = self._plan(rater), self._at(rater)
        if at == len(plan):
            return {"number": at, "of": len(plan), "done": True}
        shown, question = plan[at]
        subject = self._subjects[shown.name]
        return {
            "number": at,
            "of": len(plan),
            "done": False,
            "question": question,
            "prompt": subject.prompt,
            "image": subject.image is not None,
            "ties": self._study.ties,
            "each": len(self._study.questions),
        }


def _about(rater: str, trial: Trial) -> tuple[object, ...]:
    name, left, right = trial.shown
    return rater, trial.question, name, frozenset((left, right))


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, poll: Poll, port: int) -> None:
        self.poll, self.token = poll, secrets.token_urlsafe(18)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as fault:
            raise Refusal(f"--port {port}: cannot listen there: {fault.strerror}") from fault

    def address_of(self, rater: str) -> str:
        """What that rater opens; "" is asked for a name."""
        query = f"?rater={urllib.parse.quote(rater)}" if rater else ""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/{query}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of ours; the rest keeps its traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENT
    server_version, sys_version = "vdm", ""
    default_request_version = "HTTP/1.0"  # of a request that names none: it gets a status line too

    @property
    def _ours(self) -> Server:
        return cast(Server, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line; what is sent in HTTP that is none is answered so as well."""
        code = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else code
        words = HTTPStatus(code).phrase.lower() if explain is None else explain
        self._send(HTTPStatus(code), "text/plain; charset=utf-8", f"{words}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""

    def _answer(self, answer: Callable[[list[str], str], None]) -> None:
        try:
            self._check_origin()
            path, _, query = self.path.partition("?")
            token, *rest = path.split("/")[1:] or [""]
            if not hmac.compare_digest(token.encode(), self._ours.token.encode()):
                raise Denied(HTTPStatus.NOT_FOUND, "nothing is here; open the address as printed")
            answer(rest, query)
        except Denied as denied:
            self.send_error(denied.status, explain=str(denied))

    def _check_origin(self) -> None:
        hosts = self.headers.get_all("Host") or []
        origins = self.headers.get_all("Origin") or []
        ours = [origin.removeprefix("http://") for origin in origins]
        if len(hosts) != 1 or not all(LOOPBACK.fullmatch(host) for host in (*hosts, *ours)):
            raise Denied(HTTPStatus.FORBIDDEN, "only this machine is answered")

    def _get(self, parts: list[str], query: str) -> None:
        if len(parts) == 1 and parts[0] in FILES:
            name, kind = FILES[parts[0]]
            self._send(HTTPStatus.OK, kind, (PAGE / name).read_bytes())
        elif len(parts) == 3 and parts[0] == "media":
            rater = urllib.parse.unquote(query.removeprefix("rater="))
            self._send_file(self._ours.poll.media(rater, parts[1], parts[2]))
        else:
            raise Denied(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self, parts: list[str], query: str) -> None:
        body, poll = self._body(), self._ours.poll
        rater, number = body.get("rater"), body.get("number")
        if not isinstance(rater, str):
            raise Denied(HTTPStatus.BAD_REQUEST, "who is it?")
        if parts == ["place"]:
            place = poll.place(rater)
        elif parts == ["vote"]:
            place = poll.vote(rater, number, body.get("choice"), body.get("milliseconds"))
        elif parts == ["undo"]:
            place = poll.undo(rater, number)
        else:
            raise Denied(HTTPStatus.NOT_FOUND, "no such page")
        self._send(HTTPStatus.OK, "application/json", json.dumps(place).encode())

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Denied(HTTPStatus.LENGTH_REQUIRED, "a request has a length")
        if int(length) > BODY:
            self.rfile.read(min(int(length), DRAINED))
            raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {BODY} bytes")
        content = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise Denied(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Denied(HTTPStatus.BAD_REQUEST, "that is no JSON object")
        return body

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._begin(status, kind, len(content))
        self.wfile.write(content)

    def _send_file(self, media: Media) -> None:
        try:
            file = media.path.open("rb")
        except OSError:
            raise Denied(HTTPStatus.GONE, "the video is gone") from None
        with file:
            self._begin(HTTPStatus.OK, media.kind, os.fstat(file.fileno()).st_size)
            while piece := file.read(1 << 16):
                self.wfile.write(piece)

    def _begin(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": length}.items():
            self.send_header(name, str(value))
        self.end_headers()
