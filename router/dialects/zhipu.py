"""Zhipu's GLM (open.bigmodel.cn, api.z.ai): paths without /v1, fewer parameters, and error codes that say more than
the status.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.core.call import Fields
from router.core.verdict import Verdict
from router.dialects.base import CODES, Dialect

# Parameters that it does not know (docs.bigmodel.cn; some models ignore them, some answer 400).
UNKNOWN = ("frequency_penalty", "presence_penalty", "stream_options", "logit_bias", "logprobs", "top_logprobs", "n")

# docs.bigmodel.cn/cn/faq/api-code. The status is no guide: arrears (1113) and concurrency (1302) are both a 429.
ZHIPU_CODES: Mapping[str, Verdict] = {
    **CODES,
    **dict.fromkeys(("1302", "1303", "1304", "1305", "1308", "1310", "1312", "1313"), Verdict.BUSY),
    **dict.fromkeys(("1210", "1213", "1214", "1215", "1261", "1300", "1301"), Verdict.REFUSED),
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), Verdict.FAULT),  # our key
    **dict.fromkeys(("1110", "1111", "1112", "1113", "1120", "1121", "1309", "1311"), Verdict.FAULT),  # our account
    **dict.fromkeys(("1211", "1212", "1220", "1221", "1222"), Verdict.FAULT),  # our model's name, our permission
    **dict.fromkeys(("1200", "1230", "1231", "1234"), Verdict.FAULT),
}


def adapt(fields: Fields) -> None:
    """OpenAI's request as Zhipu reads it: its name for the length limit, and its open interval for the two
    temperatures.
    """
    for name in UNKNOWN:
        fields.pop(name, None)
    longest = fields.pop("max_completion_tokens", None)
    if longest is not None:
        fields.setdefault("max_tokens", longest)
    for name in ("temperature", "top_p"):
        if name in fields:
            _clamp(fields, name)


def _clamp(fields: Fields, name: str) -> None:
    """Both lie in (0, 1) here, and a temperature of 0 is said with do_sample, as the vendor's own SDK does it."""
    try:
        value = msgspec.json.decode(fields[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # 1e999, say: theirs to refuse
    if not isinstance(value, (int, float)) or isinstance(value, bool) or 0.01 <= value <= 0.99:
        return
    if name == "temperature" and value <= 0:
        fields["do_sample"] = msgspec.Raw(b"false")
    fields[name] = msgspec.Raw(msgspec.json.encode(min(0.99, max(0.01, value))))


# No route to list models or tell its health is documented, and a chat probe would take one of few slots: only connect.
DIALECT = Dialect(
    probe="connect",
    paths={"chat/completions": "/chat/completions", "embeddings": "/embeddings"},
    codes=ZHIPU_CODES,
    adapt=adapt,
)
