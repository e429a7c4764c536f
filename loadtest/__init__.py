"""The load tools. They use HTTP only and never import the router, so they can drive any gateway.

`cost` measures processor time and memory per request, `faults` judges what clients get when endpoints fail, `latency`
measures first-token times over endpoints that misbehave. The three do not import each other; `processes` is shared.
`python -m loadtest` has the commands of `faults` and `latency`, `scripts/bench` runs `cost`, `scripts/picture` draws
the README's picture.
"""
