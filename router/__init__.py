"""firsttoken: a latency-aware, OpenAI-compatible reverse proxy that gets the first token soonest."""

__version__ = "0.1.0"
