"""What happens around training: progress, throughput, curves, the run's record, and the guard against bad losses."""
