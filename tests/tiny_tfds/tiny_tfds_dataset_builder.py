"""The builder: six sentences, each with a small picture; prepared without a network."""

import io

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

TEXTS = tuple(f"sentence number {number} of the tiny set\na second line" for number in range(6))


def picture(number: int) -> np.ndarray:
    """The picture of an example."""
    return np.full((4, 4, 3), 10 * number, np.uint8)


class TinyTfds(tfds.core.GeneratorBasedBuilder):
    """Six sentences with pictures."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 3)),
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(4)), "test": self._generate_examples([4, 5])}

    def _generate_examples(self, numbers):
        for number in numbers:
            # PNG bytes: encoding an array would need TensorFlow.
            png = io.BytesIO()
            PIL.Image.fromarray(picture(number)).save(png, format="png")
            png.seek(0)
            yield number, {"image": png, "text": TEXTS[number], "label": number % 3}
