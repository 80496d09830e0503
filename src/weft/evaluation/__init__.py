"""Say how good a model is: every byte scored, with frozen weights or adapting ones; and what compressors reach."""
