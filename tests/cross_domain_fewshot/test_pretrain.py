"""The warm start: trained once, shared, resumed; photographs of the paper's and of one's own."""

from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.training import Cost
from cross_domain_fewshot import train
from cross_domain_fewshot.config import EXPERIMENT, PRESETS
from cross_domain_fewshot.pretrain import PretrainTask
from cross_domain_fewshot.report import accuracy_cells, ordered_runs
from cross_domain_fewshot.train import FewShotTask

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_cost(monkeypatch):
    monkeypatch.setattr(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1))


@pytest.fixture
def own(write_photos, tmp_path):
    """Settings on three folders of one's own, the first the base domain."""
    for name in ("photos", "paint", "icons"):
        data = write_photos(name, classes=(5, 5, 5), images=6, plain=False)
    return replace(
        PRESETS["smoke"], benchmark="photos,paint,icons", unseen="icons", data_dir=data,
        device="cpu", threads=1, pretrained_dir=tmp_path / "pretrained",
    )  # fmt: skip


def test_a_backbone_is_pretrained_once_and_resumed(own, monkeypatch, tmp_path):
    config, evaluate, trained = replace(own, pretrain_epochs=2), PretrainTask.evaluate, []

    def killed(self, epoch):
        trained.append(epoch)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return evaluate(self, epoch)

    monkeypatch.setattr(PretrainTask, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        FewShotTask(config, CPU)
    first = FewShotTask(config, CPU)
    assert trained == [1, 2, 2]  # the second epoch was taken up again
    second = FewShotTask(replace(config, method="ft", unseen="paint"), CPU)
    assert trained == [1, 2, 2]
    whole = FewShotTask(replace(config, pretrained_dir=tmp_path / "whole"), CPU)
    assert trained == [1, 2, 2, 1, 2]
    sums = {t.checksums["pretrained_backbone"] for t in (first, second, whole)}
    assert len(sums) == 1
    (folder,) = (tmp_path / "pretrained").iterdir()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["task"]["backbone"]
    found = second.network.backbone.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_the_paper_preset_runs_in_the_real_layout(write_photos, tmp_path):
    """At 224 px, one episode each; only the number of channels is reduced."""
    for name in ("miniImagenet", "cub", "cars", "places", "plantae"):
        photos = write_photos(name, classes=(3, 2, 2), images=3, plain=False)
    small = {
        "width": 4, "n_way": 2, "n_query": 2, "epochs": 1, "episodes": 1, "aux_batch_size": 4,
        "pretrain_epochs": 1, "val_episodes": 1, "test_episodes": 2, "test_query": 2,
        "log_every": 1, "device": "cpu", "threads": 1, "data_dir": photos,
        "pretrained_dir": tmp_path / "pretrained",
    }  # fmt: skip
    norms = []
    for method in ("lft_t1t2", "lft_t1t2_higher"):
        config = replace(PRESETS["paper"], method=method, run_dir=tmp_path / method, **small)
        record = EXPERIMENT.run(config)
        assert {"cub novel", "pretrained_backbone"} < set(record.data)
        norms += record.traces["hypergradient_norm"]
    # The same episodes, the same weights, the same noise: the same number.
    assert norms[0] == pytest.approx(norms[1], rel=1e-3) and norms[0] > 0


def test_domains_of_ones_own_are_trained_on_and_reported(own, tmp_path):
    records = [
        EXPERIMENT.run(replace(own, method=method, run_dir=tmp_path / method))
        for method in ("none", "lft_evograd")
    ]
    named = {"photos base", "paint base", "photos val", "icons novel", "pretrained_backbone"}
    assert set(records[1].data) == named
    learned = accuracy_cells(ordered_runs(records), own.benchmark).iloc[1]
    assert learned["method"] == "LFT, EvoGrad benchmark=photos,paint,icons"
    gain = records[1].final["accuracy"] - records[0].final["accuracy"]
    assert learned["− none"].value == pytest.approx(gain)  # on the same domains
    (own.data_dir / "icons" / "novel_3" / "2.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"novel_3/2\.png cannot be read"):
        FewShotTask(replace(own, seed=2), CPU)
    assert len(list((tmp_path / "pretrained").iterdir())) == 1  # before any training


@pytest.mark.parametrize("benchmark", ["photos", "photos,paint", "photos,photos,icons", "a,,icons"])
def test_too_few_domains_are_refused(benchmark):
    with pytest.raises(UserError, match="at least three domains"):
        replace(PRESETS["smoke"], benchmark=benchmark)
