"""firsttoken: a latency-aware router for language models.

    core/       decides: pure, with time and chance as arguments
    dialects/   how kinds of servers differ
    upstream/   holds connections
    proxy/      moves one request: front, handler, admission, dispatch, relay
    ops/        runs beside requests
    app.py      builds all of them; cli.py starts it

A newcomer reads proxy/handler.py, proxy/dispatch.py, core/race.py, core/endpoint.py and proxy/relay.py, in this order.
"""

__version__ = "0.1.0"
