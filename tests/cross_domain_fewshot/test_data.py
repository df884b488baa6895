"""Opening the domains: photographs and the embedded images arrive as they are."""

import pytest
import torch

from common.training import new_generator
from cross_domain_fewshot.data import open_domain
from cross_domain_fewshot.episodes import EpisodeStream

CPU = torch.device("cpu")


def test_photographs_are_opened_from_their_lists(write_photos, monkeypatch):
    folder = write_photos("cars", classes=(4, 2, 3), images=6)
    split = open_domain("paper", "cars", "novel", 12, folder, CPU)
    assert (split.class_names, split.class_sizes) == (("novel_0", "novel_1", "novel_2"), (6, 6, 6))
    colours = split.contact_sheet(3, 5)[..., 4, 7]
    assert colours.tolist() == [[[60 + 10 * c, 10 * i, 50] for i in range(5)] for c in range(3)]
    monkeypatch.setenv("EVOGRAD_DATA", str(folder))
    assert open_domain("paper", "cars", "val", 12, None, CPU).class_names == ("val_0", "val_1")


@pytest.mark.parametrize("name", ["icons", "latin"])
def test_embedded_images_arrive_as_they_are(name, pixels):
    split = open_domain("embedded", name, "novel", 32, None, CPU)
    stream = EpisodeStream(split, 5, 5, 15, new_generator(1, "x"), augment=False)
    episode = stream.next()
    known = {image.numpy().tobytes() for image in split.images.pixels.expand(-1, 3, -1, -1)}
    for part in (episode.support, episode.query):
        assert part.dtype == torch.float32
        for image in pixels(part.flatten(0, 1)).byte():
            assert image.numpy().tobytes() in known
    assert split.mirrored == (name not in ("latin", "devanagari"))  # letters never are
