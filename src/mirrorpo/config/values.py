"""What composed settings and JSON files are to the type checker. Imports no torch."""

from collections.abc import Mapping
from typing import Any, TypeAlias

# Settings, resolved; what stands under a key is for its reader to say.
Config: TypeAlias = Mapping[str, Any]

# An object of a JSON file, such as a manifest or a row of metrics.
JsonObject: TypeAlias = dict[str, Any]
