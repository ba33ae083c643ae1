"""The garbage collector is off during an import, and then as it was."""

import gc

import pytest

from mirrorpo.launch.imports import without_collection


def test_the_collector_is_off_inside_and_as_before_afterwards() -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), without_collection():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
