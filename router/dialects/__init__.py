"""Differences between kinds of servers: one small file per kind, with data and pure functions only."""

from router.dialects import openai, sglang, simulated, vllm, zhipu
from router.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "openai": openai.DIALECT,
    "sglang": sglang.DIALECT,
    "simulated": simulated.DIALECT,
    "vllm": vllm.DIALECT,
    "zhipu": zhipu.DIALECT,
}
