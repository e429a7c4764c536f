"""Every error that the router itself sends to a client, rendered in OpenAI's format.

    RouterError
    ├── BadRequest 400               the request cannot be read or routed
    │   ├── Unauthorized 401         no client key, or an unknown one
    │   ├── Forbidden 403            the request may come from a web page that may not use this router
    │   ├── UnknownModel 404         the table does not serve the model
    │   ├── NotFound 404             the router has no such path
    │   ├── MethodNotAllowed 405     the path has other methods
    │   ├── SlowRequest 408          the request was not complete in time
    │   ├── UnsupportedCoding 415        the body is compressed in a way that the router cannot decode
    │   ├── BodyTooLarge 413         the body is longer than FIRSTTOKEN_MAX_BODY
    │   └── HeaderTooLarge 431       the header is longer than FIRSTTOKEN_MAX_HEADER
    ├── ModelDisabled 503            every endpoint of the model is disabled: no key, or `enabled: false`
    ├── NoMemory 503                 the request bodies that are held have used up their memory: retry later
    ├── Overloaded 429               the router or all endpoints are at capacity: retry later
    ├── LoopDetected 508             the request has come through this router before
    ├── Stopping 503                 the router is stopping: another one may answer
    ├── EndpointsFailed 502          every possible attempt has failed
    ├── DeadlineExceeded 504         no first token within the deadline
    └── StreamBroken 502             the answer broke after it had begun: sent inside the stream

An error after attempts carries `x-should-retry: false`, which the OpenAI SDKs obey: their retries would multiply the
router's attempts by three. An error that asks the client to retry names the time in `retry-after-ms`.
"""

from __future__ import annotations

import difflib
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

Headers = list[tuple[bytes, bytes]]

# Names of models that a wrong one is compared with, at about 0.06 ms each. Of more, those next to it in the alphabet.
MAX_COMPARED = 40
# Seconds: the longest retry-after that both OpenAI SDKs obey. Node's limit is 60, Python's 120.
MAX_RETRY_AFTER = 60.0


class RouterError(Exception):
    """Base of all errors. `message` is for people, `code` for programs; `retry_after` is in seconds."""

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
        return msgspec.json.encode({"error": self._error()})

    @property
    def event(self) -> bytes:
        """The error as an event of a stream, in the one form for which both OpenAI SDKs raise."""
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

    def _error(self) -> dict[str, Any]:
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


class UnsupportedCoding(BadRequest):
    status = 415
    code = "unsupported_encoding"

    @property
    def headers(self) -> Headers:
        """Name the codings that are supported (RFC 9110 §15.5.16)."""
        return [*super().headers, (b"accept-encoding", b"gzip, deflate, zstd")]


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
        """Tell the SDKs not to retry after more than MAX_RETRY_AFTER: they would ignore the time and retry at once."""
        retry = self.retry_after is None or self.retry_after <= MAX_RETRY_AFTER
        return [*super().headers, (b"x-should-retry", b"true" if retry else b"false")]


class NoMemory(RouterError):
    status = 503
    code = "overloaded"
    should_retry = True


class Stopping(RouterError):
    status = 503
    code = "stopping"
    should_retry = True


class LoopDetected(RouterError):
    status = 508
    code = "loop_detected"
    should_retry = False


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
    """The error for a model without a route. `disabled` maps its disabled endpoints to the reasons."""
    if disabled:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in disabled.items())
        return ModelDisabled(f"All endpoints for model '{model}' are disabled ({reasons}).", param="model")
    names = sorted(served)
    nearest = difflib.get_close_matches(model, _neighbours(model, names), 1)
    guess = f" Did you mean '{nearest[0]}'?" if nearest else ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return UnknownModel(f"The model '{model}' is not served here.{guess} Served: {shown or 'none'}.", param="model")


def _neighbours(model: str, names: list[str]) -> Sequence[str]:
    """Of many sorted names, the most similar to a model: these begin or end as it does."""
    if len(names) <= MAX_COMPARED:
        return names
    half = MAX_COMPARED // 4
    place = bisect(names, model)
    reverse = sorted(name[::-1] for name in names)
    end = bisect(reverse, model[::-1])
    by_beginning, by_end = names[max(0, place - half) : place + half], reverse[max(0, end - half) : end + half]
    return list(dict.fromkeys([*by_beginning, *(name[::-1] for name in by_end)]))
