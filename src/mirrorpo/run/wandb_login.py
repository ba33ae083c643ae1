"""Whether there is a login for the W&B server, and the key that a netrc file has for it. Imports no wandb."""

import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

PUBLIC = "https://api.wandb.ai"


def known() -> bool:
    """Whether wandb would get in without asking for a key."""
    return any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")) or bool(key())


def key() -> str | None:
    """The key of the server's entry in a netrc file; None where the environment names one, or nothing does.

    wandb looks for the address as it stands in WANDB_BASE_URL, with its port; here an entry of the host
    alone, or in another case, counts too. A `default` entry is for other servers.
    """
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return None
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or _stored_url() or PUBLIC)
    netloc = address.netloc.rpartition("@")[2].lower()
    for path in _files():
        try:
            entries = netrc.netrc(path).hosts
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
            continue
        keys = {machine.lower(): entry[2] for machine, entry in entries.items()}
        for machine in (netloc, address.hostname):
            if machine and machine != "default" and keys.get(machine):
                return keys[machine]
    return None


def _files() -> list[Path]:
    if named := os.environ.get("NETRC"):
        return [Path(named).expanduser()]
    return [Path.home() / name for name in (".netrc", "_netrc")]


def _stored_url() -> str | None:
    # `wandb login --host URL` writes it.
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings")
        return settings.get("default", "base_url", fallback=None)
    except (configparser.Error, UnicodeDecodeError):
        return None
