"""Thin nipype wrappers around pure functions and tools."""
