"""Sample data and its generator."""
