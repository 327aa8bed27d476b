"""A tiny TFDS data set for tests: importing this package registers `tiny_tfds`."""

from tiny_tfds.tiny_tfds_dataset_builder import TinyTfds

__all__ = ["TinyTfds"]
