"""Factories of nipype workflows."""
