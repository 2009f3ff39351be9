"""The kit with nothing of any processor: what its fallbacks in C do."""
