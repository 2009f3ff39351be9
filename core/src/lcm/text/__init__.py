"""Text on its way into a model and out of it: tokenizers and templates."""
