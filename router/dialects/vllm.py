"""vLLM's OpenAI server, also behind SGLang's and other uvicorn fronts: it closes an unused connection after five
seconds.
"""

from router.dialects.base import Dialect

# VLLM_HTTP_TIMEOUT_KEEP_ALIVE is 5 s unless told otherwise; a second earlier nothing can cross on the wire.
DIALECT = Dialect(idle=4.0, probe="health", prefill="continue_final_message")
