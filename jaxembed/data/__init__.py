"""Data, host side: texts, images, histories, vocabularies, named sets and the input pipeline."""

from jaxembed.data.buckets import Bucket, PairBatches, bucket_batches, choose_lengths
from jaxembed.data.captions import CaptionedImages, CaptionSplits, ImageCaptions, load_captions
from jaxembed.data.corpus import Corpus, CorpusBlocks, TextCorpus, encode_corpus, open_corpus
from jaxembed.data.histories import Histories, HistorySet, load_histories
from jaxembed.data.images import Images, ImageSet, load_images, read_objects
from jaxembed.data.masking import MaskedWords, PretrainingExamples, mask_pieces
from jaxembed.data.names import EMBEDDED, EmbeddedSet, find_embedded
from jaxembed.data.pairs import (
    Pairs,
    PairSet,
    encode_lines,
    open_pairs,
    read_lines,
    read_parallel,
)
from jaxembed.data.pieces import PieceCorpus, Pieces, encode_pieces, make_tokenizer, split_documents
from jaxembed.data.pipeline import RandomAccessSource, make_batches
from jaxembed.data.retrieval_set import RetrievalSet, make_retrieval_set
from jaxembed.data.text import read_sentences
from jaxembed.data.text_pairs import (
    TextMatches,
    TextPairs,
    TextPairSplits,
    load_text_pairs,
    match_texts,
)
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
    "CaptionSplits",
    "CaptionedImages",
    "Corpus",
    "CorpusBlocks",
    "EmbeddedSet",
    "Encoded",
    "Histories",
    "HistorySet",
    "ImageCaptions",
    "ImageSet",
    "Images",
    "MaskedWords",
    "PairBatches",
    "PairSet",
    "Pairs",
    "PieceCorpus",
    "Pieces",
    "PretrainingExamples",
    "RandomAccessSource",
    "RetrievalSet",
    "SubwordVocabulary",
    "TextCorpus",
    "TextMatches",
    "TextPairSplits",
    "TextPairs",
    "TextTokenizer",
    "TokenVocabulary",
    "Vocabulary",
    "bucket_batches",
    "choose_lengths",
    "encode_corpus",
    "encode_lines",
    "encode_pieces",
    "find_embedded",
    "load_captions",
    "load_histories",
    "load_images",
    "load_text_pairs",
    "load_token_vocabulary",
    "load_tokenizer",
    "make_batches",
    "make_retrieval_set",
    "make_token_vocabulary",
    "make_tokenizer",
    "make_vocabulary",
    "match_texts",
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
