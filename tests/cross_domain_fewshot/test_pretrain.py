"""The warm start: trained once, shared, resumed; the paper's preset in the real layout."""

from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from cross_domain_fewshot.config import EXPERIMENT, PRESETS
from cross_domain_fewshot.pretrain import PretrainTask
from cross_domain_fewshot.report import accuracy_cells, ordered_runs
from cross_domain_fewshot.train import FewShotTask

CPU = torch.device("cpu")


def test_a_backbone_is_pretrained_once_and_resumed(monkeypatch, tmp_path):
    config = replace(
        PRESETS["smoke"],
        method="none",
        width=4,
        pretrain_batch_size=512,
        pretrain_epochs=2,
        pretrained_dir=tmp_path / "pre",
    )
    evaluate, trained = PretrainTask.evaluate, []

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
    second = FewShotTask(replace(config, method="ft", unseen="emoji"), CPU)
    assert trained == [1, 2, 2]
    assert first.checksums == second.checksums
    whole = FewShotTask(replace(config, pretrained_dir=tmp_path / "whole"), CPU)
    assert trained == [1, 2, 2, 1, 2]
    assert whole.checksums == first.checksums

    (folder,) = (tmp_path / "pre").iterdir()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    state = saved["state"]["task"]["backbone"]
    for name, tensor in second.network.backbone.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name]), name


def test_the_paper_preset_runs_in_the_real_layout(write_photos, tmp_path):
    """The paper's methods at 224 px, one episode each; only the number of channels is reduced."""
    for name in ("miniImagenet", "cub", "cars", "places", "plantae"):
        photos = write_photos(name, classes=(3, 2, 2), images=4, plain=False)
    small = {
        "width": 4, "n_way": 2, "n_query": 2, "epochs": 1, "episodes": 1, "aux_batch_size": 4,
        "pretrain_epochs": 1, "val_episodes": 2, "test_episodes": 2, "test_query": 2,
        "log_every": 1, "device": "cpu", "threads": 1, "data_dir": photos,
        "pretrained_dir": tmp_path / "pretrained",
    }  # fmt: skip
    hypergradients = {}
    for method in ("none", "ft", "lft_evograd", "lft_t1t2", "lft_t1t2_higher"):
        config = replace(PRESETS["paper"], method=method, run_dir=tmp_path / method, **small)
        record = EXPERIMENT.run(config)
        assert record.config["image_size"] == 224
        assert 0 <= record.final["accuracy"] <= 100
        assert {"cub novel", "pretrained_backbone"} < set(record.data)
        hypergradients[method] = record.traces.get("hypergradient_norm")
    assert len(list((tmp_path / "pretrained").iterdir())) == 1
    assert hypergradients["none"] is hypergradients["ft"] is None
    # The same episodes, the same weights, the same noise: the same number.
    exact, through_higher = hypergradients["lft_t1t2"], hypergradients["lft_t1t2_higher"]
    assert exact == pytest.approx(through_higher, rel=1e-3)
    assert exact[0] > 0 and hypergradients["lft_evograd"][0] > 0


def test_domains_of_ones_own_are_trained_on_and_reported(write_photos, tmp_path):
    """Three folders in place of the five, the first the base domain."""
    for name in ("photos", "paint", "icons"):
        data = write_photos(name, classes=(5, 5, 5), images=6, plain=False)
    config = replace(
        PRESETS["smoke"], benchmark="photos,paint,icons", unseen="icons", data_dir=data,
        device="cpu", threads=1, pretrained_dir=tmp_path / "pretrained",
    )  # fmt: skip
    records = [
        EXPERIMENT.run(replace(config, method=method, run_dir=tmp_path / method))
        for method in ("none", "lft_evograd")
    ]
    named = {"photos base", "paint base", "photos val", "icons novel", "pretrained_backbone"}
    assert set(records[1].data) == named
    learned = accuracy_cells(ordered_runs(records), config.benchmark).iloc[1]
    assert learned["method"] == "LFT, EvoGrad benchmark=photos,paint,icons"
    gain = records[1].final["accuracy"] - records[0].final["accuracy"]
    assert learned["− none"].value == pytest.approx(gain)  # to none, on its domains
    (data / "icons" / "novel_3" / "2.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"novel_3/2\.png cannot be read"):
        FewShotTask(replace(config, seed=2), CPU)
    assert len(list((tmp_path / "pretrained").iterdir())) == 1  # before any training
    for benchmark in ("photos", "photos,paint", "photos,photos,icons", "photos,,icons"):
        with pytest.raises(UserError, match="at least three domains"):
            replace(config, benchmark=benchmark)
    with pytest.raises(UserError, match="--unseen photos cannot be left out: use paint, icons"):
        replace(config, unseen="photos")
