"""SLURM's accounting for tests: a MariaDB and a slurmdbd of their own, as whoever runs the tests, so that
sacct answers.
"""

import getpass
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacctmgr", "sacct")

CONFIG = """
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage_port}
StorageUser=slurm
StoragePass=tests
StorageLoc=slurm_acct_db
CommitDelay=0
"""


def absent() -> str | None:
    """Why no accounting can run here; None when it can."""
    found = [name for name in PROGRAMS if shutil.which(name) is None]
    return (
        (
            f"SLURM's accounting is not installed here (no {', '.join(found)}): apt-get install slurmdbd "
            f"mariadb-server"
        )
        if found
        else None
    )


@dataclass
class Accounting:
    """The two daemons below a cluster's folder; slurmdbd finds its settings beside slurm.conf.

    Attributes:
        folder: the cluster's.
        port, storage_port: free ones, of slurmdbd and of its database.
    """

    folder: Path
    port: int
    storage_port: int
    _database: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def lines(self) -> str:
        """What slurm.conf says of it, in place of no accounting."""
        return (
            f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={self.port}"
        )

    def start(self, environment: dict[str, str], cluster: str) -> None:
        """The database, then slurmdbd, then the cluster's entry in it."""
        user = getpass.getuser()
        self._start_database(environment, user)
        config = self.folder / "slurmdbd.conf"
        config.write_text(
            CONFIG.format(folder=self.folder, user=user, port=self.port, storage_port=self.storage_port)
        )
        # slurmdbd refuses a password that others can read.
        config.chmod(0o600)
        subprocess.run(
            [shutil.which("slurmdbd") or "slurmdbd"], check=True, env=environment, capture_output=True
        )
        _until(["sacctmgr", "-i", "-n", "list", "cluster"], environment, self.folder / "slurmdbd.log")
        subprocess.run(
            ["sacctmgr", "-i", "add", "cluster", cluster], check=True, env=environment, capture_output=True
        )

    def _start_database(self, environment: dict[str, str], user: str) -> None:
        data, socket = self.folder / "mysql", self.folder / "mysql.sock"
        made = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--user={user}",
                f"--datadir={data}",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        words = [
            "mariadbd",
            "--no-defaults",
            f"--user={user}",
            f"--datadir={data}",
            f"--socket={socket}",
            "--bind-address=127.0.0.1",
            f"--port={self.storage_port}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        with (self.folder / "mariadbd.log").open("wb") as log:
            self._database = subprocess.Popen(words, stdout=log, stderr=log)
        say = ["mariadb", "--no-defaults", f"--socket={socket}", "-e"]
        _until([*say, "select 1"], environment, self.folder / "mariadbd.log")
        grant = (
            "create database slurm_acct_db; create user slurm@127.0.0.1 identified by 'tests'; "
            "grant all on slurm_acct_db.* to slurm@127.0.0.1"
        )
        subprocess.run([*say, grant], check=True, capture_output=True)

    def stop(self) -> None:
        """End both."""
        file = self.folder / "slurmdbd.pid"
        if file.exists():
            os.kill(int(file.read_text()), 9)
        if self._database is not None:
            self._database.kill()
            self._database.wait()


def _until(command: list[str], environment: dict[str, str], log: Path) -> None:
    end = time.time() + 60
    while subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0:
        assert time.time() < end, (
            f"waited in vain for {command[0]}: {log.read_text()[-2000:] if log.exists() else 'no log'}"
        )
        time.sleep(0.1)
