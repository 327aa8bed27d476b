"""Data, host side: texts, vocabularies, encoded corpora, named sets and the input pipeline."""

from jaxembed.data.corpus import Corpus, CorpusBlocks, TextCorpus, encode_corpus, open_corpus
from jaxembed.data.histories import Histories, SparseRows, read_histories
from jaxembed.data.images import Images, binarize_at, binarize_once, check_images, read_images
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
    "Images",
    "RandomAccessSource",
    "SparseRows",
    "TextCorpus",
    "Vocabulary",
    "binarize_at",
    "binarize_once",
    "check_images",
    "encode_corpus",
    "find_embedded",
    "make_batches",
    "make_vocabulary",
    "open_corpus",
    "open_tfds",
    "read_histories",
    "read_images",
    "read_sentences",
]
