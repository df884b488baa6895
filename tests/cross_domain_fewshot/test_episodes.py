"""Episodes and batches: what they may contain, and what mistakes are answered."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.training import new_generator
from cross_domain_fewshot.data import DomainSplit, TensorImages
from cross_domain_fewshot.episodes import ClassifierBatches, EpisodeStream

CPU = torch.device("cpu")


def coded_split(sizes, side=4, mirrored=True):
    """Plain images whose red is the class and whose green is the number within the class."""
    codes = [(c, i, 0) for c, size in enumerate(sizes) for i in range(size)]
    images = np.broadcast_to(np.array(codes, np.uint8)[:, None, None], (len(codes), side, side, 3))
    names = tuple(f"c{c}" for c in range(len(sizes)))
    store = TensorImages(images.copy(), side, CPU)
    return DomainSplit("coded", "base", names, tuple(sizes), store, mirrored, "")


def codes_of(images, pixels):
    return [tuple(image[:2, 0, 0].tolist()) for image in pixels(images)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_episode_has_distinct_classes_and_no_image_twice(data):
    n_way, n_shot, n_query = (data.draw(st.integers(1, n)) for n in (5, 3, 4))
    least = n_shot + n_query
    sizes = data.draw(st.lists(st.integers(least, least + 5), min_size=n_way, max_size=9))
    seed = data.draw(st.integers(0, 1000))
    stream = EpisodeStream(
        coded_split(sizes), n_way, n_shot, n_query, new_generator(seed, "test"), augment=False
    )
    mean, std = torch.tensor([0.485, 0.456]), torch.tensor([0.229, 0.224])
    for _ in range(3):
        episode = stream.next()
        assert episode.support.shape[:2] == (n_way, n_shot)
        both = torch.cat([episode.support, episode.query], 1)[:, :, :2, 0, 0]
        codes = ((both * std + mean) * 255).round().long()
        assert (codes[:, :, 0] == codes[:, :1, 0]).all()
        assert len(set(codes[:, 0, 0].tolist())) == n_way
        assert len({tuple(code) for code in codes.flatten(0, 1).tolist()}) == n_way * least
        assert all(number < sizes[c] for c, number in codes.flatten(0, 1).tolist())


def test_images_of_a_small_class_are_repeated_in_a_cycle(pixels):
    """A class of 3 repeated to 8 has two images three times, one twice; one of 9 has all once."""
    split = coded_split([3, 9])
    stream = EpisodeStream(split, 2, 3, 5, new_generator(1, "x"), False, min_class_size=8)
    met = set()
    for _ in range(20):
        episode = stream.next()
        both = torch.cat([episode.support, episode.query], 1)
        for images in both:
            codes = codes_of(images, pixels)
            if codes[0][0] == 0:
                assert Counter(codes) == {(0, 0): 3, (0, 1): 3, (0, 2): 2}
                met.add(tuple(codes))
            else:
                assert len(set(codes)) == 8
    assert len(met) > 10
    with pytest.raises(UserError, match="has 3 images"):
        EpisodeStream(split, 2, 3, 5, new_generator(1, "x"), False)


def test_a_pass_of_the_classifiers_batches_shows_every_image_once(pixels):
    sizes = [3, 5, 4]
    batches = ClassifierBatches(coded_split(sizes), 5, new_generator(1, "x"), augment=False)
    assert len(batches.order) == 3
    orders = []
    for _ in range(2):
        read = [batches.next() for _ in range(len(batches.order))]
        assert all(labels.dtype == torch.int64 for _, labels in read)
        orders.append(codes_of(torch.cat([batch.images for batch in read]), pixels))
        labels = torch.cat([batch.labels for batch in read]).tolist()
        assert labels == [c for c, _ in orders[-1]]
        assert sorted(orders[-1]) == [(c, i) for c, size in enumerate(sizes) for i in range(size)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("mirrored", [True, False])
def test_letters_are_never_mirrored(mirrored):
    images = np.zeros((8, 16, 16, 1), np.uint8)
    images[:, :, :4] = 255
    split = DomainSplit("x", "base", ("a",), (8,), TensorImages(images, 16, CPU), mirrored, "")
    batches = ClassifierBatches(split, 8, new_generator(1, "x"), augment=True)
    columns = torch.cat([batches.next()[0].mean((1, 2)) for _ in range(30)])
    on_the_right = (columns[:, 8:].mean(1) > columns[:, :8].mean(1)).float().mean()
    assert 0.3 < on_the_right < 0.6 if mirrored else on_the_right == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 1, 2), "--n-way 4 is more than the 3"), ((2, 2, 2), r"class c1 of .* has 3 images")],
)
def test_too_few_classes_or_images_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        EpisodeStream(coded_split([5, 3, 6]), *shape, new_generator(1, "x"), augment=False)
