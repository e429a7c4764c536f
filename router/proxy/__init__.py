"""The way of one request: front (or asgi), handler, admission, dispatch, relay."""
