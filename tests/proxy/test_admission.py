"""Admission: which calls are allowed by their headers, and how many at once."""

from __future__ import annotations

import pytest

from router.errors import Forbidden, Overloaded, Stopping, Unauthorized
from router.proxy.admission import Admission
from router.proxy.client import Headers


def refusal(admission: Admission, headers: Headers, *, reading: bool = False) -> str:
    """The code of the refusal; empty if the headers are accepted."""
    try:
        (admission.authorize_reading if reading else admission.authorize)(headers)
    except (Unauthorized, Forbidden) as error:
        return error.code
    return ""


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "missing_api_key"),
        ([(b"authorization", b"Bearer wrong")], "invalid_api_key"),
        ([(b"authorization", b"Basic c2VjcmV0")], "missing_api_key"),
        ([(b"authorization", b"Bearer secret")], ""),
        ([(b"authorization", b"bearer second ")], ""),
        ([(b"host", b"evil.test"), (b"origin", b"http://evil.test"), (b"authorization", b"Bearer secret")], ""),
    ],
)
def test_with_keys_only_a_client_key_admits(headers: Headers, code: str) -> None:
    assert refusal(Admission(["secret", "second"], 1), headers) == code


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        (b"http://localhost", ""),
        (b"http://localhost:3000", ""),
        (b"https://127.0.0.1:8443", ""),
        (b"http://127.8.9.1", ""),
        (b"http://[::1]:5173", ""),
        (b"tauri://localhost", ""),
        (b"https://evil.test", "forbidden_origin"),
        (b"http://localhost.evil.test", "forbidden_origin"),
        (b"http://evil.test:8080", "forbidden_origin"),
        (b"http://127.0.0.1.evil.test", "forbidden_origin"),
        (b"http://evil.test/http://localhost", "forbidden_origin"),
        (b"http://localhost@evil.test", "forbidden_origin"),
        (b"http://192.168.1.5", "forbidden_origin"),
        (b"file://", "forbidden_origin"),
        (b"null", "forbidden_origin"),
        (b"", "forbidden_origin"),
        (b"\xff", "forbidden_origin"),
    ],
)
@pytest.mark.parametrize("any_host", [False, True])
def test_without_keys_only_pages_of_this_machine_are_admitted(origin: bytes, code: str, any_host: bool) -> None:
    admission = Admission((), 1, any_host=any_host)
    assert refusal(admission, [(b"host", b"localhost"), (b"accept", b"*/*"), (b"origin", origin)]) == code


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (b"localhost:8080", ""),
        (b"LocalHost", ""),
        (b"127.0.0.1:8080", ""),
        (b"[::1]:8080", ""),
        (b"evil.test", "forbidden_host"),
        (b"localhost.evil.test:8080", "forbidden_host"),
        (b"127.0.0.1.evil.test:8080", "forbidden_host"),
        (b"10.0.0.7:8080", "forbidden_host"),
        (b"[2001:db8::1]", "forbidden_host"),
        (b"", "forbidden_host"),
    ],
)
def test_without_keys_a_rebound_host_name_is_refused(host: bytes, code: str) -> None:
    page = [(b"accept", b"*/*"), (b"host", host)]
    assert refusal(Admission((), 1), page, reading=True) == code
    assert refusal(Admission((), 1, any_host=True), page, reading=True) == ""
    assert refusal(Admission((), 1), page) == ""  # a call is judged by its Origin only


def test_without_keys_every_client_without_an_origin_is_admitted() -> None:
    assert refusal(Admission((), 1), [(b"authorization", b"Bearer any")]) == ""


def test_calls_are_admitted_up_to_the_limit_and_again_after_one_has_ended() -> None:
    admission = Admission((), 2)
    admission.admit()
    admission.admit()
    with pytest.raises(Overloaded, match="limit of 2 concurrent calls"):
        admission.admit()
    admission.release()
    admission.admit()
    assert admission.calls == 2


def test_utilization_is_the_share_of_the_other_calls() -> None:
    admission = Admission((), 4)
    for taken in (0.0, 0.25, 0.5, 0.75):
        admission.admit()
        assert admission.utilization() == taken


def test_no_call_is_admitted_after_the_close() -> None:
    admission = Admission((), 2)
    admission.admit()
    admission.close()
    with pytest.raises(Stopping):
        admission.admit()
    assert (admission.calls, admission.utilization()) == (1, 0.0)
