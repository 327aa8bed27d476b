"""Models of Hugging Face, in and out, without torch."""

from jaxembed.convert.huggingface.files import read_folder, write_folder
from jaxembed.convert.huggingface.seq2seq import from_huggingface, load_seq2seq

__all__ = ["from_huggingface", "load_seq2seq", "read_folder", "write_folder"]
