"""What docs/research rests on: corpora, tables and pictures. The runs are those of ``weft compare``."""
