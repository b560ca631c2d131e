"""What a GPU is worth: fits and answers on it, and on the processor."""
