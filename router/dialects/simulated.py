"""The built-in endpoints, which live in this process: nothing to connect to, nothing to probe."""

from router.dialects.base import Dialect

DIALECT = Dialect(probe="off")
