"""Leader election with real files, locks and processes."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamatelemetry.otel.process.leader_election import LeaderElection
from tests.support.children import with_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

# Prints for each line of its input whether it is the leader.
CANDIDATE = """
    import sys
    from pathlib import Path
    from llamatelemetry.otel.process.leader_election import LeaderElection

    election = LeaderElection("gpu", sys.argv[2], directory=Path(sys.argv[1]))
    for line in sys.stdin:
        if line.strip() == "release":
            election.release()
            print("released", flush=True)
        else:
            print(election.is_leader(), flush=True)
"""


class Candidate:
    def __init__(self, directory: Path, service: str) -> None:
        self.process = subprocess.Popen(
            with_signals(
                [
                    sys.executable,
                    "-W",
                    "error",
                    "-c",
                    textwrap.dedent(CANDIDATE),
                    directory,
                    service,
                ]
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, word: str = "leader?") -> str:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self, how: Callable[[subprocess.Popen], None] = subprocess.Popen.kill) -> None:
        how(self.process)
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def candidates(tmp_path: Path) -> Iterator[Callable[..., Candidate]]:
    started: list[Candidate] = []

    def start(service: str = "shop") -> Candidate:
        started.append(Candidate(tmp_path, service))
        return started[-1]

    yield start
    for voter in started:
        if voter.process.poll() is None:
            voter.end()


def election_in(directory: Path, name: str = "gpu", service: str = "shop") -> LeaderElection:
    return LeaderElection(name, service, directory=directory)


def test_leader_stays_leader_among_many_processes(candidates):
    several = [candidates() for _ in range(4)]
    first = [voter.ask() for voter in several]
    assert sorted(first) == ["False", "False", "False", "True"]
    assert [voter.ask() for voter in several] == first


@pytest.mark.parametrize(
    "how",
    [
        subprocess.Popen.kill,
        subprocess.Popen.terminate,
        lambda process: process.stdin.close(),
    ],
    ids=["killed", "terminated", "exited"],
)
def test_another_process_becomes_leader_when_leader_ends(candidates, how):
    holder, other = candidates(), candidates()
    assert (holder.ask(), other.ask()) == ("True", "False")
    holder.end(how)
    assert other.ask() == "True"


def test_released_leadership_passes_on_and_can_be_acquired_again(candidates):
    holder, other = candidates(), candidates()
    assert (holder.ask(), other.ask()) == ("True", "False")
    assert holder.ask("release") == "released"
    assert (other.ask(), holder.ask()) == ("True", "False")
    other.end()
    assert holder.ask() == "True"


def test_each_service_elects_its_own_leader(candidates):
    assert (candidates("shop").ask(), candidates("bank").ask()) == ("True", "True")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("gpu", "shop"), ("llamacpp", "shop")),
        (("a", "b-c"), ("a-b", "c")),
        (("gpu", "../shop"), ("gpu", "_shop")),
        (("gpu", "x" * 300), ("gpu", "x" * 301)),
        (("gpu", "Geschäft"), ("gpu", "Gesch_ft")),
        (("gpu", ""), ("gpu", " ")),
    ],
)
def test_different_names_are_different_elections(tmp_path, one, other):
    elections = [election_in(tmp_path, *names) for names in (one, other, one)]
    assert [election.is_leader() for election in elections] == [True, True, False]
    assert len(list(tmp_path.iterdir())) == 2


def test_lock_file_contains_process_id_of_leader(tmp_path):
    assert election_in(tmp_path).is_leader()
    (file,) = tmp_path.iterdir()
    assert file.read_text() == f"{os.getpid()}\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_election_releases_leadership_when_garbage_collected(tmp_path):
    held = election_in(tmp_path)
    assert held.is_leader()
    del held
    gc.collect()
    assert election_in(tmp_path).is_leader()


def test_only_one_process_is_leader_when_lock_file_was_deleted(tmp_path, candidates):
    holder, other = candidates(), candidates()
    assert holder.ask() == "True"
    (file,) = tmp_path.iterdir()
    file.unlink()
    assert other.ask() == "True"
    assert holder.ask() == "False"
    other.end()
    assert holder.ask() == "True"


FORKING = """
    import os, signal, sys, threading
    from pathlib import Path
    from llamatelemetry.otel.process.leader_election import LeaderElection

    election = LeaderElection("gpu", "shop", directory=Path(sys.argv[1]))
    assert election.is_leader()
    go, done = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        print(child, election.is_leader(), flush=True)
        os.write(go[1], b"x")
        os.read(done[0], 1)  # the child has called is_leader(), and continues
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(go[0], 1)
    print(election.is_leader(), flush=True)
    os.write(done[1], b"x")
    sys.stdin.read()
"""


def test_forked_child_does_not_hold_lock_of_its_parent(tmp_path):
    # The child outlives its parent. An inherited descriptor would still hold the lock.
    parent = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child, of_parent = parent.stdout.readline().split()
    try:
        assert (of_parent, parent.stdout.readline().strip()) == ("True", "False")
        assert parent.wait(30) == -signal.SIGKILL
        os.kill(int(child), 0)
        assert election_in(tmp_path).is_leader()
    finally:
        os.kill(int(child), signal.SIGKILL)
        parent.stdin.close()
        parent.stdout.close()


def test_started_program_does_not_inherit_lock(tmp_path):
    held = election_in(tmp_path)
    assert held.is_leader()
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        held.release()
        assert election_in(tmp_path).is_leader()
    finally:
        child.kill()
        child.wait(30)


ELECTION_WHILE_FORKING = """
    import os, sys, threading
    from pathlib import Path
    from llamatelemetry.otel.process.leader_election import LeaderElection

    election = LeaderElection("gpu", "shop", directory=Path(sys.argv[1]))
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            election.is_leader()
            election.release()

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(50):
        child = os.fork()
        if child == 0:
            asking = threading.Thread(target=election.is_leader, daemon=True)
            asking.start()
            asking.join(10)  # an inherited lock would block for ever
            open_files = [os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()]
            os._exit(asking.is_alive() or sum("gpu-shop" in path for path in open_files) > 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_child_forked_during_election_holds_no_lock_and_does_not_block(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ELECTION_WHILE_FORKING), tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_is_leader_returns_same_result_in_concurrent_threads(tmp_path):
    election = election_in(tmp_path)
    start, answers = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        answers.append(election.is_leader())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_default_lock_file_is_in_private_directory(temporary):
    election = LeaderElection("gpu", "shop")
    assert election.is_leader()
    (folder,) = temporary.iterdir()
    assert folder.name == f"llamatelemetry-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not LeaderElection("gpu", "shop").is_leader()


def test_only_one_process_is_leader_when_directory_was_deleted(temporary):
    holder, other = LeaderElection("gpu", "shop"), LeaderElection("gpu", "shop")
    assert (holder.is_leader(), other.is_leader()) == (True, False)
    (folder,) = temporary.iterdir()
    shutil.rmtree(folder)
    assert (other.is_leader(), holder.is_leader()) == (True, False)


@pytest.mark.parametrize("trap", ["open to all", "a link"])
def test_default_directory_is_rejected_when_other_users_can_write_to_it(
    temporary, trap, tmp_path_factory
):
    folder = temporary / f"llamatelemetry-{os.geteuid()}"
    if trap == "a link":
        target = tmp_path_factory.mktemp("elsewhere")
        folder.symlink_to(target)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    election = LeaderElection(f"gpu-{temporary.name}", "shop")
    assert election.is_leader()
    try:
        assert list(folder.iterdir()) == []
        assert not LeaderElection(f"gpu-{temporary.name}", "shop").is_leader()  # in /dev/shm
    finally:
        election.path.unlink()


def test_every_process_is_leader_with_one_warning_when_lock_file_cannot_be_created(
    tmp_path, caplog
):
    several = [election_in(tmp_path / "nothing here") for _ in range(2)]
    assert [one.is_leader() for one in [*several, *several]] == [True] * 4
    assert [record.getMessage().count("every process reports it") for record in caplog.records] == [
        1,
        1,
    ]


def test_creating_election_touches_no_file(temporary):
    LeaderElection("gpu", "shop").release()
    assert list(temporary.iterdir()) == []
