"""Run the fast tests under conditions that must not matter to them, and print what came of each."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LOGS: Final = ROOT / "build" / "hostile"
HERE, CLONE, FOREIGN = "here", "a folder é", "of nobody"
# Exists on every system, and is not root.
_USER: Final = "nobody"
_LONGEST_S: Final = 3600

_SUMMARY: Final = re.compile(r"^(?:=+ )?(\d+ [a-z].*) in [\d.]+s\b", re.MULTILINE)
_FAILURE: Final = re.compile(r"^(?:FAILED|ERROR) .*", re.MULTILINE)
_ESCAPES: Final = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")

_PROXIES: Final = "export " + " ".join(
    f"{name}_PROXY=http://127.0.0.1:9 {name.lower()}_proxy=http://127.0.0.1:9"
    for name in ("HTTP", "HTTPS", "ALL")
)
_SETTINGS: Final = """
export OTEL_SDK_DISABLED=true OTEL_TRACES_EXPORTER=nonesuch OTEL_METRICS_EXPORTER=none
export OTEL_LOGS_EXPORTER=console OTEL_PYTHON_DISTRO=nonesuch OTEL_PYTHON_CONFIGURATOR=nonesuch
export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9 OTEL_EXPORTER_OTLP_PROTOCOL=nonesuch
export OTEL_TRACES_SAMPLER=always_off OTEL_PROPAGATORS=none OTEL_RESOURCE_ATTRIBUTES=no-value
export OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=1 OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=1 OTEL_CONFIG_FILE=/none
export OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=nonesuch OTEL_BSP_SCHEDULE_DELAY=x
export LLAMATELEMETRY_EXPORTER=nonesuch LLAMATELEMETRY_REDACT_PROMPTS=x LLAMATELEMETRY_SAMPLING=x
export LLAMATELEMETRY_OTLP_ENDPOINT=http://127.0.0.1:9 LLAMATELEMETRY_EXPORT_PATH=/none
export OPENAI_BASE_URL=http://127.0.0.1:9 OPENAI_API_KEY= OPENAI_ORG_ID=x OPENAI_PROJECT_ID=x
export OPENAI_MODEL=none OPENAI_LOG=debug LLAMA_API_KEY=x LLAMA_ARG_PORT=9 LLAMA_SERVER_PATH=/none
export CUDA_VISIBLE_DEVICES= GRAPHISTRY_USERNAME=x RANK=3 WORLD_SIZE=7 MASTER_PORT=x LOG_LEVEL=x
"""
_HOMES: Final = "export " + " ".join(
    f"XDG_{name}=/proc" for name in ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR")
)
# No shell can block a signal.
_BLOCKING: Final = (
    "import os, signal, sys;"
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP});"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Condition:
    """Surroundings of the tests.

    Args:
        shell: What a shell does before it becomes the test run; ``$FOLDER`` is an empty folder.
        wrapper: A command that runs the shell.
        on_terminal: Whether the run has a terminal. Without, input is empty and output is a pipe.
        checkouts: Where the tests run, at the same time: ``HERE`` or in clones.
        is_busy: Whether every processor has something else to do.
        and_demo: Whether ``make demo`` runs after the tests.
    """

    shell: str = ""
    wrapper: tuple[str, ...] = ()
    on_terminal: bool = False
    checkouts: tuple[str, ...] = (HERE,)
    is_busy: bool = False
    and_demo: bool = False


CONDITIONS: Final = {
    "nothing": Condition(),
    "nohup": Condition("trap '' INT HUP QUIT"),
    "blocked-signals": Condition(wrapper=(sys.executable, "-c", _BLOCKING)),
    "closed-stdin": Condition("exec <&-"),
    "terminal": Condition("export TERM=xterm-256color", on_terminal=True),
    "narrow": Condition("stty cols 40; export TERM=xterm COLUMNS=40 LINES=5", on_terminal=True),
    "dumb": Condition("export TERM=dumb", on_terminal=True),
    "no-term": Condition("unset TERM", on_terminal=True),
    "no-color": Condition("export NO_COLOR=1 TERM=xterm", on_terminal=True),
    "force-color": Condition("export FORCE_COLOR=1 TERM=xterm"),
    "c-locale": Condition("export LANG=C LC_ALL=C"),
    "ascii": Condition("export LANG=C LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"),
    "time-zone": Condition("export TZ=Pacific/Kiritimati"),
    "proxy": Condition(_PROXIES),
    "no-proxy": Condition(f"{_PROXIES}; export NO_PROXY=localhost,127.0.0.1,::1 no_proxy="),
    "no-certificates": Condition(
        "export SSL_CERT_FILE=/none SSL_CERT_DIR=/none REQUESTS_CA_BUNDLE=/none CURL_CA_BUNDLE=/none"
    ),
    "own-certificates": Condition(
        'cp "$(.venv/bin/python -m certifi)" "$FOLDER/bundle.pem";'
        'export SSL_CERT_FILE="$FOLDER/bundle.pem" REQUESTS_CA_BUNDLE="$FOLDER/bundle.pem"'
    ),
    "settings": Condition(_SETTINGS),
    "python": Condition(
        "export PYTHONWARNINGS=error PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=1 PYTHONUNBUFFERED=1"
    ),
    "no-home": Condition(f"unset HOME; {_HOMES}"),
    "read-only-home": Condition(f"export HOME=/proc; {_HOMES}"),
    "temporary-folder": Condition('export TMPDIR="$FOLDER/a temp é"; mkdir "$TMPDIR"'),
    "umask-077": Condition("umask 077"),
    "umask-0": Condition("umask 0"),
    "256-files": Condition("ulimit -n 256"),
    "no-ipv6": Condition(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip link set lo up",
        wrapper=("unshare", "-n"),
    ),
    "busy": Condition(is_busy=True),
    "path": Condition(checkouts=(CLONE,), and_demo=True),
    "user": Condition(checkouts=(FOREIGN,)),
    "twice": Condition(checkouts=(HERE, CLONE)),
}
# What can be had at once: a quick look, before the long one at each of them.
_TOGETHER: Final = (
    *("nohup", "force-color", "ascii", "time-zone", "proxy", "no-certificates", "settings"),
    *("python", "read-only-home", "umask-077", "256-files"),
)
CONDITIONS["together"] = Condition("\n".join(CONDITIONS[name].shell for name in _TOGETHER))

RUNNING: Final[set[subprocess.Popen[bytes]]] = set()


class ImpossibleError(Exception):
    """A condition cannot be made on this machine; the message says why."""


@dataclass
class Outcome:
    """What came of the tests under one condition. `counts`: by pytest's words, such as `passed`."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def read(self, output: str, status: int) -> None:
        """Add what one command printed."""
        for summary in _SUMMARY.findall(output):
            for part in summary.split(", "):
                number, word = part.split()[:2]
                self.counts[word.removesuffix("s")] += int(number)
        found = [line.strip() for line in _FAILURE.findall(output)]
        self.failures += found or ([f"exit status {status}"] if status else [])

    def cells(self) -> str:
        """Return what the table shows of it."""
        failed = self.counts["failed"] + self.counts["error"]
        failed = max(failed, bool(self.failures))
        passed, skipped = self.counts["passed"], self.counts["skipped"]
        return f"{passed:6}  {failed:6}  {skipped:7}  {self.seconds:7.0f}"


class Clones:
    """Clones of the last commit, each with an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # another user has to get through

    def make(self, name: str) -> Path:
        """Return a clone; one that is there from an earlier time is brought up to date."""
        if name == HERE:
            return ROOT
        if name == FOREIGN and os.geteuid() != 0:
            raise ImpossibleError("only root can run it as another user")
        path = self._folder / name / "llamatelemetry"
        if path.exists():
            trusting = ["-c", f"safe.directory={path}"]
            subprocess.run(["git", *trusting, "-C", path, "pull", "-q", "--ff-only"], check=True)
        else:
            path.parent.mkdir(parents=True)
            subprocess.run(["git", "clone", "-q", "--local", ROOT, path], check=True)
        if name == FOREIGN:
            subprocess.run(["chown", "-R", f"{_USER}:", path.parent], check=True)
        environ, identity = as_owner(name, path)
        command = ["make", "--silent", ".venv/.dev"]
        subprocess.run(
            command, cwd=path, env=environ, check=True, stdout=subprocess.DEVNULL, **identity
        )
        return path


def as_owner(name: str, path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the environment of a clone's owner, and what makes `subprocess` run as the owner."""
    if name != FOREIGN:
        return dict(os.environ), {}
    identity = {"user": _USER, "group": path.stat().st_gid, "extra_groups": []}
    return {**os.environ, "HOME": str(path.parent), "USER": _USER, "LOGNAME": _USER}, identity


def run(name: str, arguments: Sequence[str], clones: Clones) -> Outcome:
    """Run the tests under a condition. Raises `ImpossibleError`."""
    condition, outcome = CONDITIONS[name], Outcome()
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-hostile-") as folder:
        Path(folder).chmod(0o777)
        environ = {"FOLDER": folder}
        check(condition, environ)
        checkouts = {each: clones.make(each) for each in condition.checkouts}
        began = time.monotonic()
        with load() if condition.is_busy else contextlib.nullcontext():
            commands = [["scripts/test", *arguments]]
            commands += [["make", "--silent", "demo"]] if condition.and_demo else []
            for number, command in enumerate(commands):
                with ThreadPoolExecutor() as pool:
                    ends = {
                        where: pool.submit(run_in, where, path, condition, command, environ)
                        for where, path in checkouts.items()
                    }
                    for where, end in ends.items():
                        output, status = result_of(end)
                        log = LOGS / f"{name}-{number}-{where}.txt"
                        log.write_text(output, encoding="utf-8")
                        outcome.read(output, status)
        outcome.seconds = time.monotonic() - began
    return outcome


def result_of(end: Future[tuple[str, int]]) -> tuple[str, int]:
    """Wait for a run. Ctrl-C ends all that run."""
    try:
        return end.result()
    except BaseException:
        for process in list(RUNNING):
            os.killpg(process.pid, signal.SIGKILL)
        raise


def check(condition: Condition, environ: Mapping[str, str]) -> None:
    """Raise `ImpossibleError` if the shell cannot do what it is to do before the tests."""
    try:
        done = subprocess.run(
            [*condition.wrapper, "sh", "-ec", condition.shell],
            check=False,
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise ImpossibleError(f"{error.filename} is not installed") from error
    shutil.rmtree(environ["FOLDER"])
    Path(environ["FOLDER"]).mkdir(mode=0o777)
    if done.returncode != 0 and not condition.on_terminal:
        raise ImpossibleError(done.stderr.strip().splitlines()[-1])


def run_in(
    owner: str, path: Path, condition: Condition, command: Sequence[str], more: Mapping[str, str]
) -> tuple[str, int]:
    """Run a command in a checkout. Returns its output, without escape sequences, and its status."""
    environ, identity = as_owner(owner, path)
    prelude = f'{condition.shell}\nexec "$@"'
    line = [*condition.wrapper, "sh", "-ec", prelude, "sh", *command]
    ours, theirs = pty.openpty() if condition.on_terminal else os.pipe()
    if condition.on_terminal:
        # The first terminal that the leader of a new session opens becomes its own.
        opening = 'exec "$@" <"$0" >"$0" 2>&1'
        line = ["sh", "-c", opening, os.ttyname(theirs), *line]
    process = subprocess.Popen(
        line,
        cwd=path,
        env={**environ, **more},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        **identity,
    )
    os.close(theirs)
    RUNNING.add(process)
    ending = threading.Timer(_LONGEST_S, os.killpg, (process.pid, signal.SIGKILL))
    ending.start()
    output = _ESCAPES.sub("", read(ours).decode(errors="replace")).replace("\r\n", "\n")
    status = process.wait()
    ending.cancel()
    RUNNING.remove(process)
    return output, status


def read(file: int) -> bytes:
    """Read to the end, and close."""
    pieces = []
    with contextlib.suppress(OSError):  # how the end of a terminal shows
        while piece := os.read(file, 65536):
            pieces.append(piece)
    os.close(file)
    return b"".join(pieces)


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Keep every processor busy."""
    command = ["timeout", str(_LONGEST_S), "sh", "-c", "while :; do :; done"]
    loops = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.terminate()
            loop.wait()


def main() -> int:
    """Run what the command line names, and print a table. Returns 1 if a test failed."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="scripts/test-hostile", description=__doc__)
    parser.add_argument("conditions", nargs="*", metavar="CONDITION", help="default: all")
    parser.add_argument("--list", action="store_true", help="list the conditions")
    parser.add_argument("--clones", type=Path, help="where to keep the clones for later runs")
    options = parser.parse_args(given[:split])
    if unknown := set(options.conditions) - set(CONDITIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CONDITIONS)}")
    if options.list:
        print("\n".join(CONDITIONS))
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is then ended, too
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-hostile-") as folder:
        clones = Clones(options.clones or Path(folder))
        return tabulate(options.conditions or CONDITIONS, [*given[split + 1 :], "--no-cov"], clones)


def tabulate(names: Iterable[str], arguments: Sequence[str], clones: Clones) -> int:
    """Print a line for each condition when it is known. Returns 1 if a test failed."""
    status = 0
    width = max(map(len, CONDITIONS))
    print(f"{'condition':{width}}  passed  failed  skipped  seconds", flush=True)
    for name in names:
        try:
            outcome = run(name, arguments, clones)
        except ImpossibleError as error:
            print(f"{name:{width}}  skipped: {error}", flush=True)
            continue
        print(f"{name:{width}}  {outcome.cells()}", flush=True)
        for failure in outcome.failures:
            print(f"    {failure}", flush=True)
        status |= bool(outcome.failures)
    if status:
        print(f"The output of each run is in {LOGS}.")
    return status


if __name__ == "__main__":
    sys.exit(main())
