"""The BIDS dataset: which files belong together, and what the outputs are called."""
