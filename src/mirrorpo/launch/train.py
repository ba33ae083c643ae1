"""`python train.py`, `mirrorpo train`: compose, check and run one cell; with -m many, a process each."""

import os
import sys

# Before torch is imported: idle threads that spin cost two busy cores 100x.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from mirrorpo import __version__
from mirrorpo.config import compose, paths
from mirrorpo.config.cell import Cell
from mirrorpo.config.renamed import accept_old_names
from mirrorpo.config.schema import register
from mirrorpo.config.typed import with_new_keys
from mirrorpo.launch.arguments import quoted_paths
from mirrorpo.launch.errors import one_line
from mirrorpo.launch.fork_server import channel_in, serve
from mirrorpo.launch.help import requested, text
from mirrorpo.launch.imports import without_collection
from mirrorpo.launch.planned import Planned
from mirrorpo.launch.same_inputs import SameInputs
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.mirror import bounded_exit
from mirrorpo.run.preemption import Preempted, StopRequest
from mirrorpo.run.siblings import folder_to_go_on_from, shorter_run_note
from mirrorpo.run.unused import remove_unused


def main() -> None:
    """The command line, from `sys.argv`."""
    if "--version" in sys.argv[1:]:
        print(f"mirrorpo {__version__}")
        return
    names = requested(sys.argv[1:])
    if names is not None:
        print(text(names))
        return
    # Parts of somebody's own may stand where the command is given; the package's own names come first.
    sys.path.append(os.getcwd())
    if (channel := channel_in(sys.argv[1:])) is not None:
        sys.argv[1:] = serve(channel)
    planned, arguments = Planned.taken_from(sys.argv[1:])
    _refuse_options(arguments)
    sys.argv = [sys.argv[0], *with_new_keys(quoted_paths(accept_old_names(arguments)))]
    register()

    def task(cfg: DictConfig) -> None:
        run(cfg, planned)

    with bounded_exit(), one_line():
        hydra.main(config_path=str(paths.conf()), config_name="train", version_base="1.3")(task)()


def _refuse_options(arguments: Sequence[str]) -> None:
    if any(argument.startswith("--experimental-rerun") for argument in arguments):
        sys.exit("error: --experimental-rerun: a run goes on by its own command, given again")


def run(cfg: DictConfig, planned: Planned | None = None) -> None:
    """Run the cell that the command line composed; a finished one is left alone."""
    stop_request = StopRequest().listen()
    try:
        cell = compose.cell_of(cfg)
        if planned is not None:
            planned.refuse_other(cell)
        folder = RunFolder(cell.folder)
        folder.refuse_other_config(cell)
        for note in SameInputs()(cell, folder_to_go_on_from(cell)):
            print(f"note: {note}")
        if folder.finished(verify=True):
            print(f"{folder.manifest()['state']} already, nothing to do: {folder.path}")
            return
        for note in (*cell.notes, *shorter_run_note(cell)):
            print(f"note: {note}")
        if status := _train(cell, folder, stop_request):
            sys.exit(status)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint")
        sys.exit(130)
    finally:
        stop_request.close()


def _train(cell: Cell, folder: RunFolder, stop_request: StopRequest) -> int | None:
    # Imported here, so that a cell with nothing to do does not wait for torch.
    with without_collection():
        from mirrorpo.distributed.collectives import init_process_group
        from mirrorpo.train.build import build_components
        from mirrorpo.train.extension import extend
        from mirrorpo.train.sharded import writable_folder
        from mirrorpo.train.trainer import Trainer

    # Ahead of the folder, so that a config that cannot be built leaves none behind.
    components = build_components(cell.config)
    try:
        with init_process_group() as ranks, writable_folder(folder, ranks) as writable:
            with ranks.propagate_failure():
                ranks.broadcast_from_rank0(lambda: extend(cell, components))
            try:
                Trainer(
                    cell=cell,
                    components=components,
                    folder=writable,
                    root=paths.code(),
                    stop_request=stop_request,
                    ranks=ranks,
                ).run()
            except Preempted as preempted:
                print(f"\n{preempted}")
                return preempted.status
    finally:
        remove_unused(folder)
    return None
