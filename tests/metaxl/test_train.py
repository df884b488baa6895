"""Runs at small size: where they start, the choice of epoch, schedules, settings, refusals."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from transformers import XLMRobertaForMaskedLM

from common.training import Cost
from metaxl import pretrain
from metaxl.config import EXPERIMENT, PRESETS
from metaxl.data import Split, load_material
from metaxl.evaluate import f1_by_type
from metaxl.models import xlm_roberta_config
from metaxl.readers import label_list
from metaxl.tokens import train_tokenizer
from metaxl.train import MetaXLTask
from tests.experiments import small_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def encoder_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture
def small(encoder_cache, monkeypatch, tmp_path):
    """Settings of a run that takes a second, on the embedded corpus."""
    monkeypatch.setattr(pretrain, "CACHE", encoder_cache)
    monkeypatch.setattr(MetaXLTask, "measure_cost", lambda self: Cost(1, 1, 1, 1, 1, 1))

    def make(**changes):
        config = small_settings("metaxl", learning_rate=1e-2, **changes)
        return replace(config, run_dir=tmp_path / config.run_name())

    return make


def test_a_run_records_where_the_network_went_and_what_the_head_sees(small):
    config = small(method="decay_only")
    record = EXPERIMENT.run(config)
    assert len(record.traces["iteration"]) == 2 * 3  # 36 sentences in batches of 12
    assert record.final["decay_cosine"] == pytest.approx(1, abs=1e-6)
    assert record.final["norm_ratio"] < 1
    assert len(record.curves["pca_source_before_x"]) == len(record.curves["pca_target_y"]) > 50
    assert {"embedded eng train", "encoder model.safetensors", "split target"} < set(record.data)
    best = record.epochs[int(record.best["dev_f1"]["epoch"]) - 1]
    assert record.final["selected_f1"] == best["test_f1"]


def test_seeds_change_the_run_but_not_the_sentences(small):
    tasks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        tasks.append(MetaXLTask(small(seed=seed, source_sentences=30, target_sentences=13), CPU))
    one, other = tasks
    assert one.checksums == other.checksums
    assert not torch.equal(one.next_target(), other.next_target())
    assert [len(one.splits[n]) for n in ("source", "target", "dev", "test")] == [30, 13, 10, 10]
    # Batches of 12 leave one sentence, half of which is empty.
    assert {len(one.next_target()) for _ in range(6)} == {12}


def test_a_batch_is_cut_to_its_longest_sentence():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]])
    split = Split(torch.arange(16).view(4, 4), mask, mask - 100, CPU)
    batch = split.batch(torch.tensor([3, 0]))
    assert torch.equal(batch.input_ids, torch.tensor([[12, 13, 14], [0, 1, 2]]))
    assert batch.attention_mask.shape == batch.labels.shape == (2, 3)


def test_learning_rates_rise_and_fall(small):
    task = MetaXLTask(small(method="t1t2", warmup=0.5), CPU)
    # Plain matrix products: fused attention has no second derivative.
    assert task.learner.tagger.encoder.model.config._attn_implementation == "eager"
    steps = task.steps(1)  # the first half of 6 steps
    for factor in (0, 1 / 3, 2 / 3):
        next(steps)
        assert task.learner.current_learning_rate() == pytest.approx(factor * 1e-2)
        assert task.learner.meta.optimizer.param_groups[0]["lr"] == pytest.approx(factor * 1e-3)
        assert task.learner.meta.estimator.inner_lr() == pytest.approx(factor * 1e-2)
    assert [task.rate(step) for step in (3, 4, 5)] == pytest.approx([1, 2 / 3, 1 / 3])


def test_the_first_epoch_of_the_best_dev_score_is_selected(small, monkeypatch):
    task = MetaXLTask(small(method="joint_training"), CPU)
    given = iter([10.0, 1.0, 0.0, 30.0, 2.0, 0.0, 30.0, 8.0, 0.0])  # dev, test, source dev
    monkeypatch.setattr("metaxl.train.entity_scores", lambda *_: {"f1": next(given)})
    assert [task.evaluate(epoch)["selected_f1"] for epoch in (1, 2, 3)] == [1.0, 2.0, 2.0]


def test_f1_counts_whole_entities_in_percent():
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O", "B-PER", "O"]]
    predicted = [["B-PER", "I-PER", "O", "O"], ["B-ORG", "I-ORG", "B-PER", "B-LOC"]]
    # 2 of 4 predicted are right, 2 of 4 true are found.
    assert f1_by_type(true, predicted) == {"f1": 50, "f1_PER": 100, "f1_LOC": 0, "f1_ORG": 0}
    assert f1_by_type([["O"]], [["O"]]) == {"f1": 0.0}


def test_the_paper_preset_starts_from_a_folder_and_wikianns_files(small, tmp_path):
    """XLM-R's architecture at small size with random weights, files in the original layout."""
    folder, words = tmp_path / "xlm-r", ["Lima", "river", "of", "the", "Quito", "old"]
    folder.mkdir()
    tokenizer = train_tokenizer([" ".join(words)] * 5, 60, folder)
    XLMRobertaForMaskedLM(
        xlm_roberta_config(
            vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_attention_heads=2
        )
    ).save_pretrained(folder)
    for language in ("en", "qu"):
        (tmp_path / language).mkdir()
        lines = [f"{language}:{w}\t{'B-LOC' if w[0].isupper() else 'O'}" for w in words]
        for part in ("train", "dev", "test"):
            (tmp_path / language / part).write_text("\n".join([*lines, "", *lines[::-1], ""]))
    changes = {"device": "cpu", "threads": 1, "epochs": 1, "run_dir": tmp_path / "run"}
    config = replace(PRESETS["paper"], encoder=str(folder), data_dir=tmp_path, **changes)
    assert (config.layers, config.bottleneck, config.source_sentences) == ((12,), 384, 5000)
    misc = ("B-MISC", "I-MISC")
    assert load_material(config, CPU).labels == (*label_list(("PER", "ORG", "LOC")), *misc)
    record = EXPERIMENT.run(config)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record.data["encoder model.safetensors"] == weights
    assert record.preset == "paper" and math.isfinite(record.traces["train_loss"][0])
