"""Samples: sources, shards and the deterministic loader."""
