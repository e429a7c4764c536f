"""SGLang's OpenAI server, on uvicorn as vLLM's is. It reports its load if it runs with --enable-metrics."""

from router.dialects.base import Dialect, Gauges

# Running and waiting requests are reported once per scheduler of a data-parallel group. Tensor-parallel ranks, where
# they report at all, report the same requests again.
GAUGES = Gauges(
    running=("sglang:num_running_reqs",),
    waiting=("sglang:num_queue_reqs",),
    kv=("sglang:token_usage",),
    engine="dp_rank",
)

DIALECT: Dialect = Dialect(idle=4.0, probe="health", prefill="continue_final_message", gauges=GAUGES)
