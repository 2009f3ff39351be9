"""Evaluation: how well a model predicts text, what rounding costs it, and which problems it solves."""
