"""The path of one request: front with intake and reply (or asgi), handler, admission, dispatch, relay."""
