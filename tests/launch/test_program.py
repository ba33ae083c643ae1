"""How a launch is started again, and told from other processes."""

import pytest

from mirrorpo.launch.program import is_launch, program


def test_a_cell_is_started_as_its_launcher_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["../clone/train.py", "-m"])
    assert program() == ["../clone/train.py"]
    monkeypatch.setattr("sys.argv", ["mirrorpo train", "-m"])
    assert program() == ["-m", "mirrorpo", "train"]


@pytest.mark.parametrize(
    "command, launch",
    [
        ("python train.py -m seed=0", True),
        ("/venv/bin/python /clone/train.py", True),
        ("/venv/bin/python -m mirrorpo train seed=0", True),
        ("/venv/bin/python /venv/bin/mirrorpo train", True),
        ("/venv/bin/python /venv/bin/mirrorpo status outputs/train", False),
        ("/venv/bin/python -m mirrorpo.status outputs", False),
        ("vi pretrain.py", False),
        ("", False),
    ],
)
def test_a_launch_is_told_by_its_command_line(command: str, launch: bool) -> None:
    assert is_launch(command.split()) is launch
