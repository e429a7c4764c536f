"""OpenAI, and all hosted services that are compatible with it."""

from router.dialects.base import Dialect

DIALECT: Dialect = Dialect()
