"""firsttoken: a latency-aware router for language models.

    cli.py, __main__.py   the command line
    app.py                builds the rooms, hands each its parts, starts and stops what runs
    server.py             uvicorn's server, but for how it stops
    explaining.py         asks a running router where it would send a call
    config.py             endpoints.yaml as frozen models; yamlfile.py reads the text, values.py each value
    settings.py           the process's settings, from the environment
    errors.py             all that a client can be told by us
    scheduler.py          time: a clock, and a call at a time of it

    core/       decides: pure, with time and chance as arguments
                call, record, verdict; sketch, fit, run, latency; breaker, health, leave, limit, line, slots, load;
                endpoint; affinity, balance, budget, hedging, plan, window, field, race; candidate, why, explain;
                table; shape, sse, resume
    dialects/   how kinds of servers differ
                base, prefill; openai, sglang, vllm, zhipu, simulated
    upstream/   holds connections
                exchange, http1, pool; simulated
    proxy/      moves one request
                client, front, asgi, application; handler, admission, serving, dispatch, relay, rescue; drain;
                last_words, headers, debug, shell, models
    ops/        runs beside requests
                asking, probes, signals, planner, keep; telemetry, metrics, logs, changes; admin

A newcomer reads proxy/handler.py, proxy/dispatch.py, core/race.py, core/field.py, core/endpoint.py and proxy/relay.py.
"""

__version__ = "0.1.0"
