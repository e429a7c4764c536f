"""Benchmarks of the router's own code, without sockets: whole calls (`in_process`), and the decision (`decision`)."""
