"""SGLang's OpenAI server, on the same front as vLLM's. It tells its load where it runs with --enable-metrics."""

from router.dialects.base import Dialect, Gauges

# The requests that run and wait are told once for each scheduler of a data-parallel group; those of tensor-parallel
# ranks, where they are told at all, are the same requests once more.
GAUGES = Gauges(
    running=("sglang:num_running_reqs",),
    waiting=("sglang:num_queue_reqs",),
    kv=("sglang:token_usage",),
    engine="dp_rank",
)

DIALECT = Dialect(idle=4.0, probe="health", prefill="continue_final_message", gauges=GAUGES)
