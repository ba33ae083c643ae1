"""Finds `sweeps/` beside `conf/` from any working directory; a relative `hydra.searchpath` does not."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SweepsSearchPath(SearchPathPlugin):
    """Adds the `sweeps` folder next to the main config folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra at start."""
        for element in search_path.get_path():
            if element.provider == "main" and element.path and element.path.endswith("/conf"):
                search_path.append("mirrorpo-sweeps", element.path.removesuffix("conf") + "sweeps")
                return
