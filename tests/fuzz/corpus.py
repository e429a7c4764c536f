"""The recordings: streams, answers, requests and bodies, as real servers and clients send them."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def data(value: Any, end: bytes = b"\n", space: bytes = b" ") -> bytes:
    """An event of a stream."""
    text = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return b"data:" + space + text + end * 2


def chat(delta: Json | None, finish: str | None = None, index: int = 0, **more: Any) -> Json:
    """A chunk of a chat completion."""
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1_763_800_000, "model": "m"}
    return {**head, "choices": [choice], **more}


def text(content: str, finish: str | None = None, index: int = 0, **more: Any) -> Json:
    """A chunk of a completion."""
    choice = {"index": index, "text": content, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-7", "object": "text_completion", "created": 1_763_800_000, "choices": [choice], **more}


def usage(prompt: int = 11, completion: int = 7, **more: Any) -> Json:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"choices": [], "usage": counts | more}


def error(**fields: Any) -> Json:
    return {"error": {"message": "The engine is gone.", "type": "server_error", "param": None, "code": None} | fields}


DONE = b"data: [DONE]\n\n"
ROLE = data(chat({"role": "assistant", "content": ""}))


def call(index: int, fragment: str, name: str | None = None) -> Json:
    """A fragment of a tool call; the first names it."""
    head: Json = {"id": f"call_{index}", "type": "function"} if name else {}
    function: Json = {"name": name, "arguments": fragment} if name else {"arguments": fragment}
    return chat({"tool_calls": [{"index": index, **head, "function": function}]})


def _openai() -> bytes:
    """A stream with `include_usage` (null in every chunk, then a chunk of its own) and padding."""
    more: Json = {"service_tier": "default", "system_fingerprint": "fp_1", "usage": None}
    chunks = [chat({"content": word}, **more, obfuscation="x" * len(word)) for word in ("Tschüß", " 你好", " 🙂", ".")]
    parts = [chat({"role": "assistant", "content": "", "refusal": None}, **more), *chunks, chat({}, "stop", **more)]
    return b"".join(map(data, parts)) + data(usage(prompt_tokens_details={"cached_tokens": 3})) + DONE


def _tools() -> bytes:
    """A stream with two tool calls, their fragments interleaved."""
    parts = [
        call(0, "", "weather"),
        call(1, "", "time"),
        call(0, '{"city":'),
        call(1, '{"zone":"C'),
        call(0, '"Paris"}'),
    ]
    return ROLE + b"".join(map(data, [*parts, call(1, 'ET"}'), chat({}, "tool_calls")])) + DONE


def _zhipu() -> bytes:
    """A stream with reasoning first, then finish reason and usage in one chunk, although not requested."""
    chunks = [chat({"role": "assistant", "reasoning_content": word}) for word in ("Hm", ", 让我想想")]
    chunks += [chat({"role": "assistant", "content": word}) for word in ("你", "好")]
    last = chat({"role": "assistant", "content": ""}, "stop", usage=usage()["usage"])
    return b"".join(map(data, [*chunks, last])) + DONE


def _openrouter() -> bytes:
    """The beginning of a stream: comments until the model is loaded, then a chunk."""
    waiting = b": OPENROUTER PROCESSING\n\n" * 3
    return waiting + ROLE + data(chat({"content": "Hi", "reasoning": None}, provider="Provider"))


STREAMS: dict[str, bytes] = {
    "openai": _openai(),
    "openai, two choices": ROLE
    + b"".join(data(chat({"content": f"{index}"}, index=index % 2)) for index in range(6))
    + data(chat({}, "stop", 1))
    + data(chat({}, "length", 0))
    + DONE,
    "openai, refusal": ROLE + data(chat({"refusal": "I can't."})) + data(chat({}, "content_filter")) + DONE,
    "openai, function call": data(chat({"function_call": {"name": "f", "arguments": "{}"}}))
    + data(chat({}, "function_call"))
    + DONE,
    "tools": _tools(),
    "completions": data(text("Once")) + data(text(" upon")) + data(text("", "stop")) + data(usage()) + DONE,
    "zhipu": _zhipu(),
    "zhipu, network error": data(chat({"content": "你"})) + data(chat({}, "network_error")) + DONE,
    "zhipu, error": data({"error": {"code": "1302", "message": "并发数过高"}}) + DONE,
    "vllm": ROLE
    + b"".join(data(chat({"content": word})) for word in ("a", "b", "c"))
    + data(chat({"content": ""}, "stop", stop_reason=None))
    + data(usage())
    + DONE,
    "vllm, error": ROLE + data(chat({"content": "a"})) + data(error(code=500, type="InternalServerError")) + DONE,
    "sglang": data(chat({"role": "assistant", "content": None}, matched_stop=None))
    + data(chat({"role": None, "content": "Hi", "reasoning_content": None, "tool_calls": None}))
    + data(chat({"content": None}, "stop", matched_stop=151645))
    + DONE,
    "llama.cpp": b":\n\n"
    + data({"choices": [], "prompt_progress": {"total": 9, "cache": 0, "processed": 4, "time_ms": 12}})
    + data(chat({"role": "assistant", "content": None}))
    + data(chat({"content": "Hi"}))
    + data(chat({}, "stop", timings={"prompt_ms": 12.5, "predicted_per_second": 1e-9}))
    + DONE,
    "ollama": b"".join(data(chat({"role": "assistant", "content": word})) for word in ("Hel", "lo"))
    + data(chat({"role": "assistant", "content": ""}, "stop"))
    + DONE,
    "openrouter": _openrouter()
    + data(chat({}, "stop", native_finish_reason="end_turn"))
    + data(usage(cost=0.1))
    + DONE,
    "openrouter, error": _openrouter() + data(chat({}, "error") | error(code=502, metadata={"raw": "\\"})),
    "deepseek": b": keep-alive\n\n"
    + data(chat({"role": "assistant", "content": None, "reasoning_content": ""}))
    + data(chat({"content": None, "reasoning_content": "Hm"}))
    + data(chat({"content": "Hi", "reasoning_content": None}))
    + data(chat({"content": ""}, "stop", usage=usage(prompt_cache_hit_tokens=0)["usage"]))
    + DONE,
    "tgi, error": ROLE + data({"error": "Request failed during generation", "error_type": "generation"}),
    "an error by its event": ROLE + b'event: error\ndata: {"message":"no","code":500}\n\n' + DONE,
    "an error by its event, in words": ROLE + b"event: error\ndata: gone\n\n",
    "fastapi, error": ROLE + data({"detail": "Internal Server Error"}),
    "vllm, older error": ROLE + data({"object": "error", "message": "no", "type": "NotFoundError", "code": 404}),
    "zhipu, sensitive": data(chat({"content": "x"})) + data(chat({}, "sensitive")) + DONE,
    "named events": b"event: message\nid: 1\n" + data(chat({"content": "x"})) + b"retry: 3000\n\n" + DONE,
    "lines of data": b'data: {"choices": [\ndata: {"index": 0, "delta":\ndata:{"content": "x"}}]}\n\n' + DONE,
    "no space": data(chat({"content": "x"}), space=b"") + data(chat({}, "stop"), space=b"") + b"data:[DONE]\n\n",
    "crlf": _openai().replace(b"\n", b"\r\n"),
    "cr": _openai().replace(b"\n", b"\r"),
    "all line ends": ROLE
    + data(chat({"content": "x"}), b"\r\n")
    + b"data: {}\r\r"
    + data(chat({}, "stop"), b"\r")
    + DONE,
    "byte order mark": b"\xef\xbb\xbf" + _openai(),
    "a bad event": ROLE + data(chat({"content": "x"})) + b"data: {oops\n\n" + data(chat({}, "stop")) + DONE,
    "bad text": ROLE + b'data: {"choices":[{"delta":{"content":"\xff\xc0\xaf"}}]}\n\n' + data(chat({}, "stop")) + DONE,
    "numbers": data(b'{"choices":[{"index":1e400,"delta":{"content":-0.0}}],"usage":{"prompt_tokens":1e5}}') + DONE,
    "escapes": data(b'{"choices":[{"index":0,"delta":{"content":"\\ud83d\\ude42 \\ud800 \\u0000"}}]}') + DONE,
    "deep": data(b'{"x":' + b"[" * 200 + b"]" * 200 + b"}") + DONE,
    "no end": ROLE + data(chat({"content": "x"})) + data(chat({}, "stop"))[:-1],
    "empty": DONE,
    "nothing": b"",
}


def head(status: int = 200, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"".join(line + b"\r\n" for line in (b"HTTP/%b %d Whatever" % (version, status), *lines, b""))


def chunks(body: bytes, size: int, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n%b\r\n" % trailer


EVENTS = b"content-type: text/event-stream; charset=utf-8"
JSON = b"content-type: application/json"
CHUNKED = b"transfer-encoding: chunked"
COMPLETION = json.dumps({"id": "c", "choices": [{"message": {"content": "Hi"}}], "usage": usage()["usage"]}).encode()


def sized(body: bytes, status: int = 200, *lines: bytes) -> bytes:
    return head(status, JSON, b"content-length: %d" % len(body), *lines) + body


ERRORS: dict[str, bytes] = {
    "openai": json.dumps(error(type="invalid_request_error", code="context_length_exceeded")).encode(),
    "openai, quota": json.dumps(error(type="insufficient_quota", code="insufficient_quota")).encode(),
    "zhipu": json.dumps({"error": {"code": "1113", "message": "欠费"}}).encode(),
    "zhipu, until": json.dumps({"error": {"code": "1308", "message": "reset at 2026-11-22 18:00:00"}}).encode(),
    "vllm": json.dumps(error(code=400, type="BadRequestError")).encode(),
    "vllm, before": json.dumps({"object": "error", "message": "no", "type": "NotFoundError", "code": 404}).encode(),
    "tgi": b'{"error":"Model is overloaded","error_type":"overloaded"}',
    "fastapi": b'{"detail":[{"loc":["body","model"],"msg":"field required","type":"value_error.missing"}]}',
    "anthropic": b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    "html": b"<html><body><h1>502 Bad Gateway</h1></body></html>",
    "a number": b'{"error":{"code":1302,"type":null}}',
    "odd": b'{"error":{"code":[{}],"type":{"a":1},"message":1e999}}',
    "truthy": b'{"error":true}',
    "lists": b'[{"error":{"code":429}}]',
    "not text": b'{"error":"\xff\xfe"}',
    "nothing": b"",
}

ANSWERS: dict[str, bytes] = {
    **{
        f"stream of {name}": head(200, EVENTS, CHUNKED) + chunks(stream, 97, trailer=b"")
        for name, stream in STREAMS.items()
    },
    "extensions and trailers": head(200, EVENTS, CHUNKED, b"trailer: x-sum")
    + chunks(_zhipu(), 50, b';name="va;lue"', b"x-sum: 1\r\n"),
    "stream with its length": head(200, EVENTS, b"content-length: %d" % len(_tools())) + _tools(),
    "stream to the end of the connection": head(200, EVENTS, b"connection: close") + _openai(),
    "stream of an old server": head(200, EVENTS, version=b"1.0") + _tools(),
    "stream of small chunks": head(200, EVENTS, CHUNKED) + chunks(_zhipu(), 3),
    "compressed": head(200, EVENTS, CHUNKED, b"content-encoding: gzip") + chunks(b"\x1f\x8b\x08\0", 4),
    "completion": sized(COMPLETION),
    "completion, chunked": head(200, JSON, CHUNKED) + chunks(COMPLETION, 20),
    "completion to the end": head(200, JSON) + COMPLETION,
    "completion, kept alive": sized(COMPLETION, 200, b"keep-alive: timeout=5, max=100"),
    "completion, closed": sized(COMPLETION, 200, b"connection: close"),
    "completion too short": head(200, JSON, b"content-length: 5000") + COMPLETION,
    "completion too long": head(200, JSON, b"content-length: 5") + COMPLETION,
    "an error under a 200": sized(ERRORS["vllm"]),
    "continue first": head(100) + head(103, b"link: <x>") + sized(COMPLETION),
    "nothing to say": head(204) + head(204),
    "not modified": head(304, b"content-length: 10"),
    "another protocol": head(101, b"upgrade: websocket", b"connection: upgrade") + b"\x81\x05hello",
    "redirect": sized(b"", 307, b"location: http://elsewhere/v1"),
    "two lengths": head(200, JSON, b"content-length: 5", b"content-length: 6") + b"{}    ",
    "length and chunks": head(200, JSON, b"content-length: 5", CHUNKED) + chunks(COMPLETION, 50),
    "bad chunk size": head(200, EVENTS, CHUNKED) + b"zz\r\nabc\r\n0\r\n\r\n",
    "huge chunk size": head(200, EVENTS, CHUNKED) + b"ffffffffffffffffff\r\nabc",
    "negative length": head(200, JSON, b"content-length: -1") + COMPLETION,
    "header without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 3000,
    "many headers": head(200, JSON, *[b"x-%d: y" % number for number in range(200)], b"content-length: 2") + b"{}",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an old http": b"HTTP/0.9 200\r\n\r\n",
    "bare line ends": b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
    "one more than asked": sized(COMPLETION) + sized(COMPLETION),
    **{
        f"{status} of {name}": sized(body, status, *([b"retry-after: 2"] if status == 429 else []))
        for status, name, body in zip(
            (400, 429, 500, 404, 503, 413, 529, 401) * 2, ERRORS, ERRORS.values(), strict=True
        )
    },
    "later": sized(ERRORS["openai"], 429, b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT", b"retry-after-ms: inf"),
}

BODIES: dict[str, bytes] = {
    "chat": b'{"model":"chat","messages":[{"role":"user","content":"Hi"}]}',
    "streaming": b'{"model":"chat","stream":true,"stream_options":{"include_usage":true},"messages":[],"n":2}',
    "spaced": b' {\n "model": "chat" ,\t"stream" : false , "temperature":0.0, "top_p":1e0, "seed":123456789 }\r\n',
    "escaped": b'{"mod\\u0065l":"ch\\u0061t","messages":"\\ud83d\\ude42 \\ud800 \\"{}[]:,"}',
    "twice": b'{"model":"a","stream":true,"model":"chat","stream":false}',
    "unicode": '{"model":"模型","messages":[{"role":"user","content":"Grüße 🙂"}],"temperature":-1}'.encode(),
    "parameters": b'{"model":"chat","max_completion_tokens":5,"max_tokens":7,"logit_bias":{"1":-100},"temperature":2,'
    b'"top_p":0,"stop":["\\n"],"user":null,"metadata":{}}',
    "odd types": b'{"model":["chat"],"stream":"yes","n":0.5}',
    "odd numbers": b'{"model":"chat","temperature":1e999,"top_p":-0.0,"n":1e2}',
    "deep": b'{"model":"chat","messages":' + b'[{"a":' * 300 + b"1" + b"}]" * 300 + b"}",
    "a list": b'[{"model":"chat"}]',
    "not text": b'{"model":"chat","messages":"\xff\xfe"}',
    "byte order mark": b'\xef\xbb\xbf{"model":"chat"}',
    "utf-16": '{"model":"chat"}'.encode("utf-16"),
    "cut": b'{"model":"chat","mess',
    "nothing": b"",
}


def asked(body: bytes, *lines: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    head = (b"POST %b HTTP/%b" % (path, version), b"host: there", JSON, b"content-length: %d" % len(body), *lines)
    return b"\r\n".join((*head, b"", body))


def got(path: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, path), b"host: there", *lines, b"", b""))


def in_chunks(body: bytes, size: int, *lines: bytes, **more: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + b"".join(line + b"\r\n" for line in (b"host: there", CHUNKED, *lines, b""))
        + chunks(body, size, **more)
    )


CHAT = BODIES["chat"]
REQUESTS: dict[str, bytes] = {
    **{f"body: {name}": asked(body) for name, body in BODIES.items()},
    "in chunks": in_chunks(CHAT, 7),
    "with extensions and trailers": in_chunks(CHAT, 7, extension=b";a=b", trailer=b"authorization: Bearer x\r\n"),
    "completions": asked(CHAT, path=b"/v1/completions?x=y"),
    "embeddings": asked(CHAT, path=b"http://there/v1/embeddings"),
    "models": got(b"/v1/models"),
    "head": got(b"/healthz", method=b"HEAD"),
    "options": got(b"*", method=b"OPTIONS"),
    "connect": got(b"there:443", method=b"CONNECT"),
    "one after the other": asked(CHAT) + got(b"/v1/models") + in_chunks(CHAT, 9) + asked(CHAT),
    "an old client": asked(CHAT, version=b"1.0"),
    "an old client that stays": asked(CHAT, b"connection: keep-alive", version=b"1.0"),
    "goodbye": asked(CHAT, b"connection: close") + asked(CHAT),
    "asks first": asked(CHAT, b"expect: 100-continue"),
    "another protocol": asked(CHAT, b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMA"),
    "websocket": got(b"/v1/responses", b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    "rtsp": b"OPTIONS rtsp://there/v1/chat/completions RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "two lengths": asked(CHAT, b"content-length: 5"),
    "length and chunks": asked(CHAT, CHUNKED),
    "folded": asked(CHAT, b"x: a\r\n b"),
    "bare": asked(CHAT).replace(b"\r\n", b"\n"),
}


# Pages of metrics, as far as the router reads them.


def page(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


PAGES: dict[str, bytes] = {
    "vllm": page(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.",
        "# TYPE vllm:num_requests_running gauge",
        'vllm:num_requests_running{engine="0",model_name="org/m"} 3.0',
        'vllm:num_requests_running{engine="1",model_name="org/m"} 5.0',
        'vllm:num_requests_waiting{engine="0",model_name="org/m"} 1.0',
        'vllm:kv_cache_usage_perc{engine="0",model_name="org/m"} 0.25',
        'vllm:prompt_tokens_total{engine="0",model_name="org/m"} 8.1e+06',
    ),
    "vllm of old": page('vllm:gpu_cache_usage_perc{model_name="m"} 1.0', 'vllm:num_requests_waiting{model_name="m"} 0'),
    "sglang": page(
        *(f'sglang:num_running_reqs{{dp_rank="0",model_name="m",tp_rank="{rank}"}} 4.0' for rank in range(2)),
        'sglang:num_queue_reqs{model_name="m"} 2 1712345678',
        'sglang:token_usage{model_name="a \\"name\\" with \\\\ and {braces}, and \\n"} 0.28',
    ),
    "odd": page("vllm:num_requests_waiting NaN", "vllm:num_requests_running +Inf", "sglang:token_usage -1"),
}
