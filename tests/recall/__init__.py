"""The memory of text."""
