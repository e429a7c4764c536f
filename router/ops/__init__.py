"""What runs beside requests: probes, metrics, logs, and the pages for operators."""
