"""Data, host side: texts, images, histories, vocabularies, named sets and the input pipeline."""

from jaxembed.data.corpus import Corpus, CorpusBlocks, TextCorpus, encode_corpus, open_corpus
from jaxembed.data.histories import Histories, HistorySet, load_histories
from jaxembed.data.images import Images, ImageSet, load_images, read_objects
from jaxembed.data.names import EMBEDDED, EmbeddedSet, find_embedded
from jaxembed.data.pipeline import RandomAccessSource, make_batches
from jaxembed.data.text import read_sentences
from jaxembed.data.tfds_source import open_tfds
from jaxembed.data.vocabulary import Vocabulary, make_vocabulary

__all__ = [
    "EMBEDDED",
    "Corpus",
    "CorpusBlocks",
    "EmbeddedSet",
    "Histories",
    "HistorySet",
    "ImageSet",
    "Images",
    "RandomAccessSource",
    "TextCorpus",
    "Vocabulary",
    "encode_corpus",
    "find_embedded",
    "load_histories",
    "load_images",
    "make_batches",
    "make_vocabulary",
    "open_corpus",
    "open_tfds",
    "read_objects",
    "read_sentences",
]
