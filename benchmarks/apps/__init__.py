"""The applications that the benchmarks serve: the same handlers in each server's own idiom."""
