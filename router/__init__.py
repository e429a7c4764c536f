"""firsttoken: a latency-aware router for language models.

    cli.py, __main__.py   the command line
    app.py                builds all parts, connects them, starts and stops the background tasks
    server.py             uvicorn's server with this router's way to stop
    explaining.py         the `explain` command: asks a running router where it would send a call
    config.py             endpoints.yaml as frozen models; yamlfile.py reads the text, values.py each value
    hints.py              keys of other products, with the key that does the same here
    advice.py             warnings: what is valid in the file and the environment, but most likely not meant
    settings.py           the process's settings, from the environment
    errors.py             every error that the router sends to clients
    scheduler.py          time: a clock, and callbacks at a time of that clock
    turns.py              the turns of the event loop: shared among connections, and measured
    memory.py             how much memory the process may use
    build.py              which build runs: pure, or compiled

    core/            the decisions: pure, with time and randomness as arguments; its own files are facts
                     call, body, elements, demand, record, verdict, quote
    core/stream/     reads the bytes of answers; knows no endpoint
                     lines, scanner, template, events, finish, progress, error_body; chunks, transcript, splice
    core/endpoint/   knows one endpoint: its state and its estimates; chooses nothing
                     endpoint; availability, breaker, cooldown, health, limit, slots, waiting_queue;
                     forecast, latency, histogram, regression, change, server_load
    core/choice/     decides where a call goes; knows endpoints, no connections
                     route, table; pick, shortlist, affinity, candidates; budget, hedge_delay, hedge_plan, hedge_window;
                     race
    core/explain/    explains the choice; decides nothing
                     explanation, rows, words
    dialects/        how kinds of servers differ
                     base, prefill; openai, sglang, vllm, zhipu, simulated
    upstream/        connections to endpoints
                     exchange, labels, whole, refusal, page; spliced, masking; http1, upload, pool, idle_limit; dial,
                     resolver, tls; simulated
    proxy/           moves one request
                     client, front, intake, known_head, body_budget, reply, asgi, application; handler, admission, cors,
                     serving, open_call, answer, dispatch, relay, long_answer, rescue; compression, parameters; drain;
                     failures, headers, loop_guard, debug, context, models, unknown
    ops/             runs beside requests
                     asking, gate, probes, signals, planner; keep, memory, pause; telemetry, metrics, logs, changes;
                     admin, readiness

Begin to read with proxy/handler.py, proxy/dispatch.py, core/choice/race.py, core/choice/candidates.py,
core/endpoint/endpoint.py and proxy/relay.py.
"""

__version__ = "0.1.0"
