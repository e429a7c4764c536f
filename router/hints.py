"""Keys of other products, and common mistakes, with the key of endpoints.yaml that does the same."""

from __future__ import annotations

from collections.abc import Mapping

_ADDRESS = "did you mean 'base_url'?"
_KEY = "did you mean 'api_key'?"
_TIER = "write 'tier': 1 is used first"
_DEADLINE = (
    "write 'deadline' (until the first token), 'abandon' (until another endpoint is asked instead) or 'stall' "
    "(a silence inside a stream)"
)
_CONCURRENCY = "write 'concurrency': the most attempts at once; limits per minute are learned from the endpoint's 429s"
_RETRIES = "write 'retry_budget': retries per call, such as 0.2"
_FALLBACK = "give the endpoints of one model different tiers: 'tier: 2' is used when tier 1 is unavailable or late"
_MODELS = "write 'models', as in models: {name for clients: name at the endpoint}"
_OFF = "write 'enabled: false' to take an endpoint out"
_PARAMS = "write it under 'params', as in params: {default: {temperature: 0.5}}"
_HEADERS = "write it under 'headers'"
_KIND = "write 'kind': openai (any compatible server), zhipu, vllm, sglang or simulated"
_PROBE = "write 'probe', as in probe: {kind: models, interval: 10s}"
_POOL = "write 'pool', as in pool: {max: 200}"
_TLS = "certificates are checked against SSL_CERT_FILE, or the system's roots"

# Of an endpoint: LiteLLM's, the SDKs', Envoy's, nginx's and other gateways' names. In lower case, without - and _.
_ENDPOINT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "apibase",
            "apiurl",
            "baseurl",
            "base",
            "url",
            "uri",
            "endpoint",
            "address",
            "host",
            "openaiapibase",
            "server",
        ),
        _ADDRESS,
    ),
    **dict.fromkeys(("apikey", "key", "token", "apitoken", "secret", "bearer", "openaiapikey", "authtoken"), _KEY),
    **dict.fromkeys(("priority", "order", "rank", "level"), _TIER),
    **dict.fromkeys(
        ("timeout", "requesttimeout", "streamtimeout", "readtimeout", "timeoutms", "timeoutseconds", "ttfttimeout"),
        _DEADLINE,
    ),
    **dict.fromkeys(
        ("rpm", "tpm", "rps", "ratelimit", "maxparallelrequests", "maxconcurrency", "maxconcurrent", "maxinflight"),
        _CONCURRENCY,
    ),
    **dict.fromkeys(
        ("parallel", "slots", "limit", "maxrequests"),
        _CONCURRENCY,
    ),
    **dict.fromkeys(("maxretries", "numretries", "retries", "retry"), _RETRIES),
    **dict.fromkeys(("fallback", "fallbacks", "backup"), _FALLBACK),
    **dict.fromkeys(("model", "modelname", "modellist", "litellmparams", "upstreammodel", "aliases"), _MODELS),
    **dict.fromkeys(("disabled", "disable", "enable", "active", "paused", "drain", "down"), _OFF),
    **dict.fromkeys(("temperature", "topp", "maxtokens", "stop", "seed", "extrabody", "defaultparams"), _PARAMS),
    **dict.fromkeys(("extraheaders", "defaultheaders", "organization", "authorization", "auth"), _HEADERS),
    **dict.fromkeys(("provider", "type", "customllmprovider", "dialect", "backend"), _KIND),
    **dict.fromkeys(("healthcheck", "health", "healthcheckpath", "healthcheckinterval", "livenessprobe"), _PROBE),
    **dict.fromkeys(("maxconnections", "maxconns", "keepaliveconnections", "poolsize"), _POOL),
    **dict.fromkeys(("sslverify", "verify", "verifyssl", "insecure", "cafile", "cabundle", "tls"), _TLS),
    **dict.fromkeys(("contextwindow", "contextlength", "maxmodellen", "ctxsize"), "did you mean 'context'?"),
    **dict.fromkeys(("share", "ratio"), "did you mean 'weight'?"),
    "id": "did you mean 'name'?",
    "apiversion": "write the address with its path up to the API, without a query; Azure's is …/openai/v1",
}

# At the top of the file.
_TOP: Mapping[str, str] = {
    **dict.fromkeys(
        ("modellist", "providers", "upstreams", "backends", "servers", "deployments", "hosts", "clusters", "services"),
        "write 'endpoints': a list, each with name, base_url and models",
    ),
    **dict.fromkeys(
        ("apikeys", "clientkeys", "masterkey", "apikey", "tokens", "authtokens", "key", "auth", "virtualkeys"),
        "write 'keys': a list of the keys that clients may send",
    ),
    **dict.fromkeys(
        ("allowedorigins", "corsorigins", "origins", "corsalloworigins", "alloworigins"),
        "write 'cors': a list of origins",
    ),
    **dict.fromkeys(
        ("routersettings", "litellmsettings", "generalsettings", "settings", "policy", "policies", "global"),
        "write time limits and budgets under 'defaults'",
    ),
    **dict.fromkeys(
        ("fallbacks", "contextwindowfallbacks"),
        _FALLBACK,
    ),
    **dict.fromkeys(
        ("port", "host", "loglevel", "accesslog", "allowopen", "maxbody", "maxcalls", "keepalive", "drain"),
        "a setting of the process: an option of `firsttoken serve`, or a variable such as FIRSTTOKEN_PORT",
    ),
    "listen": "pass --host and --port to `firsttoken serve`, or set FIRSTTOKEN_HOST and FIRSTTOKEN_PORT",
    "environmentvariables": "set variables in the process's environment, and write ${NAME} here",
}
# In `defaults`, and for a model.
_POLICY: Mapping[str, str] = {
    **{word: hint for word, hint in _ENDPOINT.items() if hint in (_DEADLINE, _RETRIES, _FALLBACK, _PARAMS)},
    "params": "parameters belong to an endpoint: params under 'endpoints'",
}


def hint(word: str, section: str) -> str:
    """The hint for an unknown key; `section` is top, endpoint or policy. Empty if there is none."""
    table = {"top": _TOP, "endpoint": _ENDPOINT, "policy": _POLICY}[section]
    return table.get(word.lower().replace("-", "").replace("_", ""), "")
