"""The properties of a kind of server. The defaults fit all OpenAI-compatible servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from router.core.call import Fields, Operation
from router.core.stream.error_body import codes_of, error_of, message_of
from router.core.verdict import REQUESTS_FAULT, Cause, Verdict, of_status
from router.dialects.prefill import Prefill

HOSTED_IDLE = 90.0  # seconds that hosted front ends keep an unused connection: rarely documented, and rarely less
QUOTA_WAIT = 900.0  # seconds until an endpoint with a used-up quota is asked again, if it names no time
MAX_QUOTA_WAIT = 86_400.0  # seconds, a day: an endpoint that is out for longer gets one attempt a day

PATHS: Mapping[Operation, str] = {
    "chat/completions": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}

# Values of an error's `code` or `type`, or of a `reason` in its details, at OpenAI-compatible servers; also inside a
# 200 stream, where the status says nothing. A code is the endpoint's own word; a message may quote a client.
CODES: Mapping[str, Cause] = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "slow_down"), Cause.THROTTLED),
    **dict.fromkeys(("rate_limit_reached_error", "RATE_LIMIT_EXCEEDED"), Cause.THROTTLED),  # Moonshot; Google
    **dict.fromkeys(("overloaded_error", "server_overloaded", "model_overloaded", "overloaded"), Cause.OVERLOADED),
    "engine_overloaded_error": Cause.OVERLOADED,  # Moonshot
    **dict.fromkeys(("invalid_api_key", "authentication_error", "account_deactivated"), Cause.DENIED),
    **dict.fromkeys(("insufficient_quota", "insufficient_balance", "billing_error"), Cause.DENIED),
    **dict.fromkeys(("billing_not_active", "billing_hard_limit_reached"), Cause.DENIED),
    # Moonshot (two); Alibaba (two); Google (the rest), which sends them with status 400 or 403.
    **dict.fromkeys(("invalid_authentication_error", "exceeded_current_quota_error"), Cause.DENIED),
    **dict.fromkeys(("InvalidApiKey", "Arrearage"), Cause.DENIED),
    **dict.fromkeys(("API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"), Cause.DENIED),
    **dict.fromkeys(("API_KEY_HTTP_REFERRER_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED"), Cause.DENIED),
    **dict.fromkeys(("ACCESS_TOKEN_EXPIRED", "CREDENTIALS_MISSING", "ACCOUNT_STATE_INVALID"), Cause.DENIED),
    **dict.fromkeys(("BILLING_DISABLED", "CONSUMER_SUSPENDED", "CONSUMER_INVALID", "SERVICE_DISABLED"), Cause.DENIED),
    **dict.fromkeys(("model_not_found", "NotFoundError", "not_found_error", "permission_error"), Cause.MISCONFIGURED),
    # Moonshot; Groq; Mistral; GitHub (two); Azure.
    **dict.fromkeys(("resource_not_found_error", "model_decommissioned", "invalid_model"), Cause.MISCONFIGURED),
    **dict.fromkeys(("unknown_model", "unavailable_model", "DeploymentNotFound"), Cause.MISCONFIGURED),
    "unsupported_country_region_territory": Cause.MISCONFIGURED,  # OpenAI
    "loop_detected": Cause.MISCONFIGURED,  # this router
    **dict.fromkeys(("context_length_exceeded", "exceed_context_size_error"), Cause.TOO_LONG),
    **dict.fromkeys(("content_policy_violation", "content_filter", "content_policy"), Cause.POLICY),
    # Azure; OpenAI (two); Alibaba (two spellings).
    **dict.fromkeys(("ResponsibleAIPolicyViolation", "moderation_blocked", "invalid_prompt"), Cause.POLICY),
    **dict.fromkeys(("data_inspection_failed", "DataInspectionFailed"), Cause.POLICY),
    **dict.fromkeys(("invalid_request_error", "BadRequestError", "validation"), Cause.INVALID),
    **dict.fromkeys(("generation", "incomplete_generation"), Cause.TRANSIENT),  # Text Generation Inference
    # Groq: the model has not produced what the request asks for.
    **dict.fromkeys(("tool_use_failed", "json_validate_failed", "output_parse_failed"), Cause.TRANSIENT),
}

# Messages for a prompt that is too long, where no code says so: OpenAI, vLLM, SGLang and Mistral; SGLang and Together;
# llama.cpp; Anthropic; xAI; Text Generation Inference (two).
_TOO_LONG = re.compile(
    r"maximum context length|longer than the model's context|exceeds? the (?:available|model's) context"
    r"|prompt is too long|maximum prompt length|tokens \+ `max_new_tokens` must be <="
    r"|`inputs` must have less than \d+ tokens",
    re.IGNORECASE,
)
# Messages of a 400 that is not about the request: key; credit; account; model name; region; capacity; the model's own
# failure. Endpoints quote what clients send, so such words prove nothing against an endpoint: they only decide that
# this one call is tried elsewhere.
_ELSEWHERE = re.compile(
    r"\bapi[ _-]?(?:key|token)s?\b|(?:access|auth|bearer|security|session|proxy) token|unauthori[sz]ed"
    r"|not authenticated|credentials|authorization header|(?:white|allow)[ -]?list|log[ -]?in (?:fail|error|required)"
    r"|(?:token|key|signature|subscription|plan|licen[cs]e|trial)s?\b[^.]{0,40} (?:expired|revoked)"
    r"|token (?:is |seems |was )?invalid"
    r"|authentication (?:failed|error|required)|(?:failed|unable|could not|cannot) (?:to )?authenticate"
    r"|credit balance|(?:insufficient|not enough|no|out of|more) (?:credit|balance|fund|quota)|current quota"
    r"|balance[^.]{0,40}(?:low|insufficient|exhausted|not enough)|billing (?:account|detail|hard|limit)|arrear|overdue"
    r"|billing (?:is |has )?(?:not|disabled|been)|\btop[ -]?up\b|(?:run|ran) out of|used up"
    r"|payment (?:required|method)|(?:spend(?:ing)?|usage|quota) limit|quota[^.]{0,20}exceeded"
    r"|exceeded (?:your|the)[^.]{0,40}(?:quota|credit|budget|allowance)"
    r"|(?:account|organi[sz]ation|workspace|project|subscription|team)[^.]{0,60}(?:disabled|suspended|deactivated|banned"
    r"|locked|blocked|inactive|not active|restricted|terminated|frozen|expired|good standing)"
    r"|(?:permission|access)[^.]{0,20} (?:denied|forbidden)|do(?:es)?(?: not|n't) have (?:access|permission)"
    r"|not (?:allowed|permitted|authori[sz]ed|entitled|eligible) to|operation not (?:allowed|permitted)"
    r"|\bip(?: address)?\b[^.]{0,40} not (?:allowed|permitted|listed)"
    r"|not a valid model|(?:invalid|unknown|unsupported|no such|unrecogni[sz]ed) (?:model|deployment)"
    r"|(?:find|locate|load|resolve|access)(?: the| this)?(?: requested| specified)? (?:model|deployment|engine)\b"
    r"|no models? (?:is |are |was )?(?:loaded|available|found|running|named)"
    r"|(?:model|deployment)\b[^.]{0,100}?(?:not found|not exist|n't exist|no longer|unavailable|decommissioned"
    r"|deprecated|retired|(?:identifier|\bname) is invalid"
    r"|(?:is |are |been )?(?:disabled|stopped|paused|offline)"
    r"|(?:is|are|was|been)(?: not|n't)(?: currently| yet)? (?:a valid|available|supported|found"
    r"|deployed|loaded|served|enabled|ready|open|active|activated|running|recogni[sz]ed))"
    r"|\bmodel not (?:available|supported|found|open|loaded|ready|enabled|allowed|recogni[sz]ed)"
    r"|not support (?:the )?(?:chat|completions?|embeddings?|pooling|generation)\b"
    r"|(?:location|countr(?:y|ies)|region|territory)[^.]{0,60}(?:not (?:supported|available|allowed|permitted)"
    r"|restricted|blocked|prohibited)|unsupported (?:location|country|region|territory)"
    r"|not (?:supported|available|allowed)[^.]{0,60}(?:location|country|countries|region|territory)"
    r"|overloaded|(?:at|over|exceeds?|insufficient|no|enough) capacity|capacity (?:exceeded|reached|constraint|error)"
    r"|too many (?:concurrent )?requests|rate limit|throttl|try again later|temporarily|resources? exhausted"
    r"|(?:server|service|engine|system|model)[^.]{0,40} (?:busy|unavailable)|out of memory|no (?:available|healthy) "
    r"|(?:queue|server|service) is full|(?:high|heavy) (?:demand|load|traffic)|warming up|cold start"
    r"|no (?:instance|worker|replica|channel|provider|gpu)s?\b[^.]{0,20} available"
    r"|failed to (?:call a function|generate)|generation failed|failed_generation|inference (?:failed|error)"
    r"|model (?:failed|crashed|produced|generated|returned|output)|internal (?:server )?error|unexpected error"
    r"|(?:provider|upstream)[^.]{0,30}(?:error|failed|failure|unavailable|timed? ?out)"
    r"|\bcuda\b|engine(?:core)?[^.]{0,20}(?:dead|died|encountered|crash|fail|not running)|\btimed out\b"
    # The same in Chinese: key, balance, arrears, rights, model, capacity.
    r"|(?:令牌|密钥|[Kk]ey|账[户号]|模型)[^。]{0,20}(?:不存在|无效|过期|失效|禁用|停用|欠费|异常|不可用|未开通|已下线)"
    r"|无效的?(?:令牌|密钥|模型)|(?:余额|额度|配额)[^。]{0,6}(?:不足|用尽|耗尽)|欠费|无权|无可用|(?:繁忙|过载|稍后)",
    re.IGNORECASE,
)
# Messages of a 429 that is about the size of this request: to come back would not help. OpenAI.
_TOO_LARGE = re.compile(r"\s*request (?:body )?too large\b", re.IGNORECASE)
_OURS = frozenset({"model", "api_key", "authorization"})  # parameters that the configuration sets, not the client
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+")  # where a word of a code ends and the next begins
_QUOTED = re.compile(r"(?<!\w)(['`])[^'`\n]*\1(?!\w)")  # in a message: mostly what a client has sent
MAX_MESSAGE = 2000  # characters of an error message that are searched: some repeat the whole prompt


class Judgement(NamedTuple):
    """The cause of a refusal or failure. `retry_after`: seconds, if the answer names a time."""

    cause: Cause
    retry_after: float | None = None

    @property
    def verdict(self) -> Verdict:
        return self.cause.verdict


class Gauges(NamedTuple):
    """Names of metrics: the requests that run and wait at a server, and the used share of its key-value cache.

    Each may have several names, the newest first. `engine` is the label of an engine; the requests of all engines add
    up.
    """

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv: tuple[str, ...]
    engine: str


def no_reset(code: str, message: str, now: float) -> float | None:
    """None: for kinds that name no time in their messages."""
    return None


@dataclass(frozen=True)
class Dialect:
    """The properties of one kind of server.

    `adapt` changes the fields of a request in place to those that the kind accepts. `resets_in` returns the seconds
    until a quota is reset, from its code, its message, and the wall-clock time. `finishes` maps the kind's own finish
    reasons to those that OpenAI's clients know.
    """

    idle: float = HOSTED_IDLE  # seconds that a server keeps an unused connection, until that is measured
    probe: Literal["health", "models", "connect", "off"] = "models"  # the probe for `kind: auto`
    paths: Mapping[Operation, str] = field(default_factory=lambda: PATHS)
    codes: Mapping[str, Cause] = field(default_factory=lambda: CODES)
    adapt: Callable[[Fields], None] | None = None
    resets_in: Callable[[str, str, float], float | None] = no_reset
    finishes: Mapping[str, str] = field(default_factory=dict)
    prefill: Prefill | None = None  # the way to ask for the continuation of a text
    gauges: Gauges | None = None  # its load reports, at GET /metrics beside the API

    def judge(self, status: int, body: Any, retry_after: float | None, now: float) -> Judgement:
        """The cause of a refusal or failure, from the vendor's code if it is known, else the status, else the message.

        `body` is the decoded body, an event, or the error object in one; a status of 200 is ignored. `now` is the
        wall-clock time.
        """
        error = error_of(body) or {}
        codes = codes_of(error)
        code = next((code for code in map(self._known, codes) if self._decides(status, code)), "")
        cause = self.codes[code] if code else _of_status(status, codes, retry_after) or Cause.TRANSIENT
        message = message_of(error)[:MAX_MESSAGE]
        if cause in (Cause.INVALID, Cause.TRANSIENT) and _TOO_LONG.search(message):
            return Judgement(Cause.TOO_LONG)
        if cause is Cause.THROTTLED and _TOO_LARGE.match(message):
            return Judgement(Cause.TOO_LONG)
        if cause is Cause.INVALID and _is_elsewhere(error, codes, message):
            return Judgement(Cause.TRANSIENT, retry_after)
        if cause is Cause.QUOTA:
            wait = self.resets_in(code, message, now)
            wait = QUOTA_WAIT if wait is None else wait
            retry_after = min(max(wait, retry_after or 0.0), MAX_QUOTA_WAIT)
        return Judgement(cause, retry_after)

    def _known(self, code: str) -> str:
        """A code as the table spells it: InvalidApiKey and INVALID_API_KEY are the same code as invalid_api_key."""
        return code if code in self.codes else _WORDS.sub("_", code).lower()

    def _decides(self, status: int, code: str) -> bool:
        """True if a code is known and says more than the status.

        A wrong key or model name of ours is called an `invalid_request_error` too; there the status says more. A 413 is
        about the size of this request, although some call it a rate limit: coming back would not help.
        """
        cause = self.codes.get(code)
        if status == 413:
            return cause is Cause.POLICY
        return cause is not None and not (
            cause is Cause.INVALID and 400 <= status < 500 and status not in REQUESTS_FAULT
        )


def _is_elsewhere(error: Mapping[str, Any], codes: list[str], message: str) -> bool:
    """True if a 400 is not about the request: by its parameter, by words of its message, or of a code of no table."""
    place = error.get("param") or error.get("loc")
    if isinstance(place, list) and place:  # FastAPI
        place = place[-1]
    if isinstance(place, str) and place.removeprefix("body.") in _OURS:
        return True
    said = _QUOTED.sub("''", message.replace("’", "'"))
    return _ELSEWHERE.search(". ".join([said, *(_WORDS.sub(" ", code) for code in codes)])) is not None


def _of_status(status: int, codes: list[str], retry_after: float | None) -> Cause | None:
    """The cause from the status. Inside a stream, or behind another gateway, the code may be the original status."""
    if status == 500 or status < 300:
        status = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), status)
    return of_status(status, retry_after=retry_after is not None)
