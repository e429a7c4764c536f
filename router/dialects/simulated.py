"""The built-in endpoints, which run in this process and need no probes."""

from router.dialects.base import Dialect

DIALECT = Dialect(probe="off")
