"""Without network or cache the error says what to do; that the hub's rows are the files' is in
`test_gsm8k`.
"""

import pytest

from mirrorpo.dataset.hub import hub_rows


def test_a_repository_that_is_not_there_names_every_setting_and_the_fix(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fix = (
        r"cannot load 'train' of dataset\.hub=nobody/nothing \(hub_config=full, revision=abc\).*Set "
        r"MIRRORPO_DATA to a folder with mbpp/mbpp\.jsonl, or fill the hub cache once, where there is "
        r"a network: "
        r'python -c "from datasets import load_dataset; '
        r"load_dataset\('nobody/nothing', 'full', revision='abc'\)"
    )
    with pytest.raises(ValueError, match=fix):
        hub_rows("nobody/nothing", "full", "train", "abc", "mbpp/mbpp.jsonl")
