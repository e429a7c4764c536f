"""vLLM's OpenAI server. It runs on uvicorn, which closes an unused connection after five seconds."""

from router.dialects.base import Dialect, Gauges

GAUGES = Gauges(
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    kv=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the second is the name before V1; both are shares
    engine="engine",
)

# VLLM_HTTP_TIMEOUT_KEEP_ALIVE is 5 s by default. A second less, so that no request crosses the server's close.
DIALECT: Dialect = Dialect(idle=4.0, probe="health", prefill="continue_final_message", gauges=GAUGES)
