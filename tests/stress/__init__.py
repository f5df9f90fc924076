"""Chaos and soak: many tasks, many deaths, long runs."""
