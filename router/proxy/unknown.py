"""The message for a path that the router does not have: what is served instead, or what the client must switch."""

from __future__ import annotations

import re

SERVED = "chat/completions, completions and embeddings (POST) and models (GET)"
_MEANT = ("chat/completions", "completions", "embeddings", "models")  # the longer before those that they end in

# Interfaces that clients ask for by default, and how to use this router from such a client.
_OTHERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"/responses(/.*)?"),
        "OpenAI's Responses API is not served; switch the client to chat completions: openai.chat(…) in the AI SDK, "
        "'openai-chat:NAME' in pydantic-ai, set_default_openai_api('chat_completions') in openai-agents, "
        "client.chat.completions in the SDKs",
    ),
    (
        re.compile(r"/messages(/.*)?"),
        "Anthropic's Messages API is not served; use a client of OpenAI's chat completions",
    ),
    (
        re.compile(r"/openai(/v1)?/deployments/.*|/deployments/.*"),
        "Azure's paths are not served; use OpenAI's own client (OpenAI instead of AzureOpenAI)",
    ),
    (
        re.compile(r"(/v1beta\d?|/v1alpha)?(/models/.*)?:[a-z]+([A-Z]\w*)?|/v1beta.*", re.ASCII),
        "Google's own API is not served; use a client of OpenAI's chat completions",
    ),
    (
        re.compile(r"/api/(chat|generate|embed|embeddings|tags|show|ps|pull|version)"),
        "Ollama's own API is not served; use a client of OpenAI's chat completions",
    ),
)
# An operation that Google's API puts behind a model's name; Ollama's tags (`llama3:8b`) look different.
_GOOGLE = re.compile(r"/v1/models/.+:[a-z]+[A-Z]\w*")


def is_operation_of_google(path: str) -> bool:
    """True for `/v1/models/NAME:generateContent` and the like, which are no ids of models."""
    return _GOOGLE.fullmatch(path) is not None


def nothing_at(path: str) -> str:
    """The message for an unknown path. At most 200 characters of it are repeated."""
    shown = path if len(path) <= 200 else f"{path[:200]}…"
    clean = "/" + "/".join(part for part in path.split("/") if part)
    bare = re.sub(r"^(/v1)+(?=/|$)", "", clean, flags=re.IGNORECASE)
    for pattern, hint in _OTHERS:
        if pattern.fullmatch(bare):
            return f"There is nothing at {shown}: {hint}, with a base URL that ends in /v1."
    for meant in _MEANT:
        if clean.lower().endswith(f"/{meant}"):
            return f"There is nothing at {shown}; did you mean /v1/{meant}?"
    if clean.lower().startswith("/v1/") or clean.lower() == "/v1":
        return f"There is nothing at {shown}; served are {SERVED}, under /v1."
    return f"There is nothing at {shown}; the API is under /v1."
