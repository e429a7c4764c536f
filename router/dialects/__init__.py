"""How kinds of servers differ: one small file a kind, data and pure functions."""

from router.dialects import openai, sglang, simulated, vllm, zhipu
from router.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "openai": openai.DIALECT,
    "sglang": sglang.DIALECT,
    "simulated": simulated.DIALECT,
    "vllm": vllm.DIALECT,
    "zhipu": zhipu.DIALECT,
}
