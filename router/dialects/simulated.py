"""The built-in endpoints, which run in this process and need no probes.

There are no embeddings: invented vectors with status 200 would end up in a client's index.
"""

from router.dialects.base import PATHS, Dialect

DIALECT: Dialect = Dialect(
    probe="off", paths={name: path for name, path in PATHS.items() if name in ("chat/completions", "completions")}
)
