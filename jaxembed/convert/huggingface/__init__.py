"""Models of Hugging Face, in and out, without torch."""

from jaxembed.convert.huggingface.bert import load_bert, save_bert, save_tokenizer
from jaxembed.convert.huggingface.clip import load_clip, save_clip
from jaxembed.convert.huggingface.files import read_folder, write_folder
from jaxembed.convert.huggingface.gpt2 import load_gpt2, save_gpt2
from jaxembed.convert.huggingface.seq2seq import from_huggingface, load_seq2seq
from jaxembed.convert.huggingface.siglip import load_siglip, save_siglip

__all__ = [
    "from_huggingface",
    "load_bert",
    "load_clip",
    "load_gpt2",
    "load_seq2seq",
    "load_siglip",
    "read_folder",
    "save_bert",
    "save_clip",
    "save_gpt2",
    "save_siglip",
    "save_tokenizer",
    "write_folder",
]
