"""Model descriptors, weights, prediction and training."""
