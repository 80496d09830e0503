"""Memories of text beside a model, exact and without learning: what followed the same tokens before counts."""

from weft.recall.config import MemoryConfig as MemoryConfig
from weft.recall.file import MEMORY as MEMORY
from weft.recall.file import load_memory as load_memory
from weft.recall.file import save_memory as save_memory
from weft.recall.shares import first_guess as first_guess
from weft.recall.shares import mix_in as mix_in
from weft.recall.so_far import look_back as look_back
from weft.recall.text_memory import Reader as Reader
from weft.recall.text_memory import TextMemory as TextMemory
from weft.recall.text_memory import make_memory as make_memory
