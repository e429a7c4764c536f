"""How kinds of servers differ: one small file a kind, data and pure functions."""

from router.dialects import openai, simulated, vllm, zhipu
from router.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "openai": openai.DIALECT,
    "simulated": simulated.DIALECT,
    "vllm": vllm.DIALECT,
    "zhipu": zhipu.DIALECT,
}
