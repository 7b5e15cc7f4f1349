"""Errors in the shape that OpenAI's clients read: {"error": {message, type, param, code}}."""

import math
from typing import Any

import sqlalchemy as sa
from starlette.responses import JSONResponse

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with a status and one line.

    code: a word for programs. param: the field that it is about. wait: seconds after which the same
    request may be taken.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        wait: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.wait = status, code, param, wait

    @property
    def response(self) -> JSONResponse:
        kind = KINDS.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": said}, self.status, self._headers())

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.wait is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.wait)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status == 409:
            headers["x-should-retry"] = "false"
        return headers


AWAY = sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError
"""What the job store raises that is full, restarted or out of reach."""


def away() -> ApiError:
    return ApiError(503, "storage", "the job store does not answer; try again", wait=5)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, code, message, param=param)


def absent(what: str = "video") -> ApiError:
    """The same for what never was, what is gone, and what is another's."""
    return ApiError(404, "not_found", f"there is no such {what}")


def fault(number: str) -> ApiError:
    """What went wrong is in the log, under the number of the request."""
    return ApiError(500, "server_error", f"a fault of the server; see its log: {number}")


def of_status(status: int, detail: Any) -> ApiError:
    """What the framework refuses by itself."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    words = {404: "there is nothing at this address", 405: "this address does not take that method"}
    said = [*str(detail).split("\n"), "refused"]
    message = words.get(status) or next(line.strip()[:200] for line in said if line.strip())
    return ApiError(status, codes.get(status, "bad_request"), message)
