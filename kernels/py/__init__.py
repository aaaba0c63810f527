"""Compiled kernels, built on first use and never at import."""
