"""Benchmarks that need more than one crate; the microbenchmarks live beside their crates."""
