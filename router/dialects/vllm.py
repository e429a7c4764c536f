"""vLLM's OpenAI server, on uvicorn's front: it closes an unused connection after five seconds."""

from router.dialects.base import Dialect, Gauges

GAUGES = Gauges(
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    kv=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the second until V1 renamed it; a share, both
    engine="engine",
)

# VLLM_HTTP_TIMEOUT_KEEP_ALIVE is 5 s unless told otherwise; a second earlier nothing can cross on the wire.
DIALECT = Dialect(idle=4.0, probe="health", prefill="continue_final_message", gauges=GAUGES)
