"""JSON lines as tables."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.json


def json_lines(path: Path) -> pa.Table | None:
    """A JSON lines file as a table; None where nothing is. A last line that a kill tore off is left out.

    Raises:
        ValueError: naming the file, if a complete line is not JSON.
    """
    data = path.read_bytes() if path.exists() else b""
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        return None
    try:
        return pyarrow.json.read_json(
            io.BytesIO(data), read_options=pyarrow.json.ReadOptions(block_size=max(len(data), 1))
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} has a line that is not JSON ({error}): move the run's folder away and run it again"
        ) from error
