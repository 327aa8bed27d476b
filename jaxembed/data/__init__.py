"""Data, host side: texts, images, histories, vocabularies, named sets and the input pipeline."""

from jaxembed.data.buckets import Bucket, PairBatches, bucket_batches, choose_lengths
from jaxembed.data.corpus import Corpus, CorpusBlocks, TextCorpus, encode_corpus, open_corpus
from jaxembed.data.histories import Histories, HistorySet, load_histories
from jaxembed.data.images import Images, ImageSet, load_images, read_objects
from jaxembed.data.masking import MaskedWords, PretrainingExamples, mask_pieces
from jaxembed.data.names import EMBEDDED, EmbeddedSet, find_embedded
from jaxembed.data.pairs import Pairs, encode_lines, open_pairs, read_lines, read_parallel
from jaxembed.data.pieces import PieceCorpus, Pieces, encode_pieces, make_tokenizer, split_documents
from jaxembed.data.pipeline import RandomAccessSource, make_batches
from jaxembed.data.text import read_sentences
from jaxembed.data.tfds_source import open_tfds
from jaxembed.data.tokenizer import (
    Encoded,
    TextTokenizer,
    load_tokenizer,
    train_byte_pairs,
    train_wordpiece,
)
from jaxembed.data.tokens import (
    SubwordVocabulary,
    TokenVocabulary,
    load_token_vocabulary,
    make_token_vocabulary,
)
from jaxembed.data.vocabulary import Vocabulary, make_vocabulary

__all__ = [
    "EMBEDDED",
    "Bucket",
    "Corpus",
    "CorpusBlocks",
    "EmbeddedSet",
    "Encoded",
    "Histories",
    "HistorySet",
    "ImageSet",
    "Images",
    "MaskedWords",
    "PairBatches",
    "Pairs",
    "PieceCorpus",
    "Pieces",
    "PretrainingExamples",
    "RandomAccessSource",
    "SubwordVocabulary",
    "TextCorpus",
    "TextTokenizer",
    "TokenVocabulary",
    "Vocabulary",
    "bucket_batches",
    "choose_lengths",
    "encode_corpus",
    "encode_lines",
    "encode_pieces",
    "find_embedded",
    "load_histories",
    "load_images",
    "load_token_vocabulary",
    "load_tokenizer",
    "make_batches",
    "make_token_vocabulary",
    "make_tokenizer",
    "make_vocabulary",
    "mask_pieces",
    "open_corpus",
    "open_pairs",
    "open_tfds",
    "read_lines",
    "read_objects",
    "read_parallel",
    "read_sentences",
    "split_documents",
    "train_byte_pairs",
    "train_wordpiece",
]
