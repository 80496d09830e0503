"""The study of docs/study.md: its corpora, its tables and its pictures. The runs are those of ``weft compare``."""
