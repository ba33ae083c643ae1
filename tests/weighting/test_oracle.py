from typing import Any

import pytest
import torch
import worked
from completions import completion_of
from hydra import compose, initialize_config_dir
from rows import CONF

from mirrorpo.config.schema import register, resolved
from mirrorpo.core.masked import mean_one
from mirrorpo.dataset.ledger import asked_letter
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_components
from mirrorpo.train.loaded import Loader
from mirrorpo.train.step import collated
from mirrorpo.weighting.oracle import Oracle


def test_the_weights_stand_on_what_the_dataset_says_decides():
    completions = [completion_of([4, 5, 6, 7]), completion_of([4, 5]), completion_of([4, 5, 6])]
    deciding = [[(1, 3)], [], [(0, 1), (2, 9)]]
    batch = collate(completions, [1.0, 0.0, 0.0], pad_id=0, mask_truncated=False, deciding=deciding)
    assert batch.deciding.tolist() == [[False, True, True, False], [False] * 4, [True, False, True, False]]
    unread: Any = worked.Table({})
    weights = Oracle(low=0.5, high=2.0)(batch, unread, 0)
    assert weights[0].tolist() == [0.5, 2.0, 2.0, 0.5] and weights[1].tolist() == [1.0] * 4
    torch.testing.assert_close(mean_one(weights, batch.mask).sum(dim=1), torch.tensor([4.0, 2.0, 3.0]))
    undeclared = collate(completions, [1.0] * 3, pad_id=0, mask_truncated=False)
    assert not bool(undeclared.deciding.any())


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [(["model=ledger"], False), (["model=tiny"], True), (["model=ledger", "dataset=arithmetic"], True)],
)
def test_a_dataset_that_does_not_say_what_decides_is_refused_in_one_line(overrides, refused):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolved(compose("train", overrides=[*overrides, "weighting=oracle"]))
    if not refused:
        build_components(config)
        return
    reason = r"^weighting=oracle with dataset=Arithmetic: .*dataset=ledger"
    with pytest.raises(ValueError, match=reason) as error:
        build_components(config)
    assert "\n" not in str(error.value)


def test_a_batch_of_the_shipped_model_marks_the_line_that_was_asked_for() -> None:
    small = ["prompts_per_step=2", "group_size=2", "eval_questions=2", "eval_sampled_questions=0"]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolved(
            compose("train", overrides=["model=ledger", "weighting=oracle", "device=cpu", *small])
        )
    components = build_components(config)
    loaded = Loader(components=components, device=torch.device("cpu"), ranks=ALONE).load()
    rollout = loaded.collector(loaded.policy, 1, 0)
    all_offsets = [loaded.policy.with_offsets(answer.completion.ids) for answer in rollout.answers]
    batch = collated(rollout, all_offsets, loaded.learner, components.dataset)
    for row, answer in enumerate(rollout.answers):
        marked = loaded.policy.decode(batch.completion_ids[row][batch.deciding[row]].tolist())
        line = f"{asked_letter(answer.prompt)} "
        assert marked.startswith(line) and marked in answer.completion.text.splitlines()
