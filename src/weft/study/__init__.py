"""Look at runs and compare them: the report that people look at, and the model card."""
