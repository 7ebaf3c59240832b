"""Find sub-acute and chronic stroke lesions in T1w and FLAIR MRI of a BIDS dataset."""

__version__ = "0.1.0"
