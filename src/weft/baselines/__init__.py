"""Models of other houses behind the protocol of a language model, so that comparisons are fair."""
