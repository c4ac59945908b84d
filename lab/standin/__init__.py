"""The stand-in for Chef's own package, which cannot be had for tests."""
