"""Operations beside the calls: probes, server signals, metrics, logs, and the pages for operators."""
