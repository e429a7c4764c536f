"""Zhipu's GLM (open.bigmodel.cn, api.z.ai): paths without /v1, fewer parameters, and error codes that say more than
the status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import msgspec

from router.core.call import Fields
from router.core.verdict import Cause
from router.dialects.base import CODES, Dialect

# Parameters that Zhipu does not know (docs.bigmodel.cn; some models ignore them, some answer 400), and one that it
# knows: `request_id` must be new for each attempt, or a hedge is refused as a duplicate (code 1231).
UNKNOWN = (
    *("frequency_penalty", "presence_penalty", "stream_options", "logit_bias", "logprobs", "top_logprobs", "n"),
    "request_id",
)

# docs.bigmodel.cn/cn/api/api-code. The status is no guide: arrears (1113) and concurrency (1302) are both a 429. 1316
# is api.z.ai's code for the quota of five hours.
ZHIPU_CODES: Mapping[str, Cause] = {
    **CODES,
    **dict.fromkeys(("1302", "1303"), Cause.THROTTLED),
    **dict.fromkeys(("1305", "1312"), Cause.OVERLOADED),
    **dict.fromkeys(("1304", "1308", "1310", "1313", "1316"), Cause.QUOTA),
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), Cause.DENIED),  # our key
    **dict.fromkeys(("1110", "1111", "1112", "1113", "1121"), Cause.DENIED),  # our account
    **dict.fromkeys(("1309", "1311"), Cause.DENIED),  # our plan
    **dict.fromkeys(("1211", "1212", "1220", "1221", "1222"), Cause.MISCONFIGURED),  # our model's name, our permission
    **dict.fromkeys(("500", "1120", "1200", "1230", "1231", "1234"), Cause.TRANSIENT),
    **dict.fromkeys(("1210", "1213", "1214", "1215"), Cause.INVALID),
    "1261": Cause.TOO_LONG,
    **dict.fromkeys(("1300", "1301"), Cause.POLICY),
}

BEIJING = timezone(timedelta(hours=8))
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def resets_in(code: str, message: str, now: float) -> float | None:
    """Seconds until a quota is reset. The time is in the message, in Beijing's time zone unless it names another. The
    quota of calls per day (1304) is reset at midnight.

    "已达到 5 小时的使用上限。您的限额将在 2026-08-25 07:41:44 重置。"
    "Usage limit reached for 5 hour. Your limit will reset at 2026-08-25 07:41:44"
    """
    found = _TIME.search(message)
    try:
        if found is not None:
            date, time, zone = found.groups()
            then = datetime.fromisoformat(f"{date}T{time}{zone or '+08:00'}")
        elif code == "1304":
            today = datetime.fromtimestamp(now, BEIJING).replace(hour=0, minute=0, second=0, microsecond=0)
            then = today + timedelta(days=1)
        else:
            return None
    except ValueError:
        return None  # no such date, for example February 31
    wait = then.timestamp() - now
    return wait if wait > 0 else None  # None for a time in the past: one of the two clocks is wrong


def adapt(fields: Fields) -> None:
    """Change a request to what Zhipu accepts: its parameters, its name for the length limit, and its open interval for
    `temperature` and `top_p`.
    """
    for name in UNKNOWN:
        fields.pop(name, None)
    limit = fields.pop("max_completion_tokens", None)
    if limit is not None:
        fields.setdefault("max_tokens", limit)
    for name in ("temperature", "top_p"):
        if name in fields:
            _clamp(fields, name)


def _clamp(fields: Fields, name: str) -> None:
    """Move a value into (0, 1). A temperature of 0 becomes `do_sample: false`, as in the vendor's own SDK."""
    try:
        value = msgspec.json.decode(fields[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # for example 1e999: left for the endpoint to refuse
    if not isinstance(value, (int, float)) or isinstance(value, bool) or 0.01 <= value <= 0.99:
        return
    if name == "temperature" and value <= 0:
        fields["do_sample"] = msgspec.Raw(b"false")
    fields[name] = msgspec.Raw(msgspec.json.encode(min(0.99, max(0.01, value))))


# No route to list models or tell its health is documented, and a chat probe would take one of few slots: only connect.
DIALECT: Dialect = Dialect(
    probe="connect",
    paths={"chat/completions": "/chat/completions", "embeddings": "/embeddings"},
    codes=ZHIPU_CODES,
    adapt=adapt,
    resets_in=resets_in,
    finishes={"sensitive": "content_filter", "model_context_window_exceeded": "length"},
)
