"""What benchmarks share: the pack in this process, the machine, alternating rounds, replayed decisions, tables."""
