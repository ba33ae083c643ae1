"""What the processes that tests fork have imported before."""

from mirrorpo.launch.imports import without_collection

with without_collection():
    import mirrorpo.launch.train
    import mirrorpo.train.build
    import mirrorpo.train.sharded
    import mirrorpo.train.trainer  # noqa: F401
