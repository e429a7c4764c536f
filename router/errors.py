"""All that a client can be told by us rather than by an endpoint, and the one place that renders it in OpenAI's shape.

    RouterError
    ├── BadRequest 400               what was sent can't be read or routed
    │   ├── Unauthorized 401         no client key, or none that we know
    │   ├── Forbidden 403            no keys are set, and it may be a web page of elsewhere that asks
    │   ├── UnknownModel 404         a model that the table does not serve
    │   ├── NotFound 404             a path that is not ours
    │   ├── MethodNotAllowed 405     a path of ours, with another method
    │   ├── SlowRequest 408          the request did not come in time
    │   ├── BodyTooLarge 413
    │   └── HeaderTooLarge 431
    ├── ModelDisabled 503            all of its endpoints lack what they need from the environment
    ├── Overloaded 429               we, or all endpoints, have no room: come back
    ├── Stopping 503                 the router stops: another one may answer
    ├── EndpointsFailed 502          every attempt that could be made has failed
    ├── DeadlineExceeded 504         no first token in time
    └── StreamBroken 502             the answer broke after it had begun: told inside the stream

An error after our own attempts says `x-should-retry: false`, which the OpenAI SDKs obey: else they would multiply our
attempts by three. One that says "come back" says when, in `retry-after-ms`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

Headers = list[tuple[bytes, bytes]]

LONGEST = 60.0  # seconds that the SDKs wait for, if they are told to: Node's 60, Python's 120


class RouterError(Exception):
    """`message` is for people, `code` for programs; `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after = message, param, retry_after
        if code is not None:
            self.code = code

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"error": self._shape()})

    @property
    def event(self) -> bytes:
        """The same inside a stream: the one form at which both OpenAI SDKs raise."""
        return b"data: " + self.body + b"\n\n"

    @property
    def headers(self) -> Headers:
        headers: Headers = [(b"content-type", b"application/json")]
        if self.should_retry is not None:
            headers.append((b"x-should-retry", b"true" if self.should_retry else b"false"))
        if self.retry_after is not None:
            headers.append((b"retry-after-ms", b"%d" % round(self.retry_after * 1000)))
            headers.append((b"retry-after", b"%d" % max(1, -(-self.retry_after // 1))))
        return headers

    def _shape(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class BadRequest(RouterError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    should_retry = False


class Unauthorized(BadRequest):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> Headers:
        return [*super().headers, (b"www-authenticate", b"Bearer")]


class Forbidden(BadRequest):
    status = 403
    code = "forbidden_origin"


class UnknownModel(BadRequest):
    status = 404
    code = "model_not_found"


class NotFound(BadRequest):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(BadRequest):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> Headers:
        return [*super().headers, (b"allow", self.allow.encode())]


class SlowRequest(BadRequest):
    status = 408
    code = "request_timeout"


class BodyTooLarge(BadRequest):
    status = 413
    code = "body_too_large"


class HeaderTooLarge(BadRequest):
    status = 431
    code = "header_too_large"


class ModelDisabled(RouterError):
    status = 503
    code = "model_disabled"
    should_retry = False


class Overloaded(RouterError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"

    @property
    def headers(self) -> Headers:
        """The SDKs would not wait for longer than LONGEST, but come back at once, and in vain."""
        come_back = self.retry_after is None or self.retry_after <= LONGEST
        return [*super().headers, (b"x-should-retry", b"true" if come_back else b"false")]


class Stopping(RouterError):
    status = 503
    code = "stopping"
    should_retry = True


class EndpointsFailed(RouterError):
    status = 502
    type = "upstream_error"
    code = "endpoints_failed"
    should_retry = False


class DeadlineExceeded(RouterError):
    status = 504
    type = "upstream_error"
    code = "deadline_exceeded"
    should_retry = False


class StreamBroken(RouterError):
    status = 502
    type = "upstream_error"
    code = "stream_broken"
    should_retry = False


def not_served(model: str, served: Iterable[str], disabled: Mapping[str, str]) -> RouterError:
    """For a model that the table has no route for; `disabled` are the endpoints that would serve it, and why not."""
    if disabled:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in disabled.items())
        return ModelDisabled(f"All endpoints of the model '{model}' are disabled ({reasons}).", param="model")
    names = sorted(served)
    nearest = difflib.get_close_matches(model, names, 1)
    guess = f" Did you mean '{nearest[0]}'?" if nearest else ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return UnknownModel(f"The model '{model}' is not served here.{guess} Served: {shown or 'none'}.", param="model")
