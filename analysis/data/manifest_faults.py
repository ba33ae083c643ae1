"""What in a manifest contradicts the rest of it: entries that no run writes, since one is made of the others.

Old manifests lack some entries; what is not there contradicts nothing.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mirrorpo.run.manifest import SEAL, seal

# The last launch's entries, which a manifest has at its top too.
OF_A_LAUNCH = ("time", "device", "commit", "dirty", "code", "versions", "machine", "command")
# Times are text of one form, so that they sort.
Launches = Sequence[Mapping[str, Any]]


def manifest_faults(manifest: Mapping[str, Any]) -> list[str]:
    """A readable line each."""
    launches: Launches = manifest.get("launches") or []
    out: list[str] = []
    recorded = manifest.get(SEAL)
    if recorded is not None and seal(dict(manifest)) != recorded:
        out.append("manifest.json is not what a run wrote: take it from a copy")
    if recorded is None and manifest.get("sha256_beside") is not None:
        out.append(f"manifest.json has lost {SEAL}, which is written with sha256_beside: take it from a copy")
    if launches:
        last = launches[-1]
        other = [name for name in OF_A_LAUNCH if name in last and manifest.get(name) != last[name]]
        if other:
            out.append(f"manifest.json has another {', '.join(other)} than its last launch")
    return out + _clocks(manifest, launches)


def _clocks(manifest: Mapping[str, Any], launches: Launches) -> list[str]:
    times = [("started", manifest.get("started"))]
    times += [(f"launch {number}", launch.get("time")) for number, launch in enumerate(launches, start=1)]
    times += [("ended", manifest.get("ended"))]
    known = [(name, str(time)) for name, time in times if time]
    return [
        f"{later} at {after} is before {earlier} at {before}: a clock went back, or manifest.json was changed"
        for (earlier, before), (later, after) in pairwise(known)
        if after < before
    ]
