"""OpenAI, and every hosted service that speaks as it does."""

from router.dialects.base import Dialect

DIALECT = Dialect()
