"""Run the fast tests under conditions that must not affect them, and print the result of each."""

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
# Directories of the checkouts: this one, a clone with a difficult path, a clone of another user.
HERE, CLONE, FOREIGN = "here", "a folder é", "of nobody"
# This user exists on every system and is not root.
_USER: Final = "nobody"
_TIMEOUT_S: Final = 3600

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
# A shell cannot block a signal, so Python does.
_BLOCKING: Final = (
    "import os, signal, sys;"
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP});"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Condition:
    """Environment of a test run.

    Args:
        shell: Shell commands that run before the tests; `$FOLDER` is an empty directory.
        wrapper: Command that runs the shell.
        on_terminal: Whether the run has a terminal. Otherwise input is empty and output is a pipe.
        checkouts: Checkouts whose tests run at the same time: `HERE` or names of clones.
        is_busy: Whether other processes use every processor.
        and_demo: Whether `make demo` runs after the tests.
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
# Conditions that can be combined, for one quick run.
_TOGETHER: Final = (
    *("nohup", "force-color", "ascii", "time-zone", "proxy", "no-certificates", "settings"),
    *("python", "read-only-home", "umask-077", "256-files"),
)
CONDITIONS["together"] = Condition("\n".join(CONDITIONS[name].shell for name in _TOGETHER))

RUNNING: Final[set[subprocess.Popen[bytes]]] = set()


class ImpossibleError(Exception):
    """This machine cannot create a condition. The message has the reason."""


@dataclass
class Outcome:
    """Result of the tests under one condition.

    Attributes:
        counts: Number of tests by pytest's outcome, such as `passed`.
        failures: Lines of pytest's summary for failed tests.
        seconds: Duration of the run.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def read(self, output: str, status: int) -> None:
        """Add the output and the exit status of one command."""
        for summary in _SUMMARY.findall(output):
            for part in summary.split(", "):
                number, word = part.split()[:2]
                self.counts[word.removesuffix("s")] += int(number)
        found = [line.strip() for line in _FAILURE.findall(output)]
        self.failures += found or ([f"exit status {status}"] if status else [])

    def cells(self) -> str:
        """Return the cells of the table."""
        failed = self.counts["failed"] + self.counts["error"]
        failed = max(failed, bool(self.failures))
        passed, skipped = self.counts["passed"], self.counts["skipped"]
        return f"{passed:6}  {failed:6}  {skipped:7}  {self.seconds:7.0f}"


class Clones:
    """Clones of the last commit, each with its own environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # Another user must be able to enter it.

    def make(self, name: str) -> Path:
        """Return a clone. Creates or updates it, and its environment."""
        if name == HERE:
            return ROOT
        if name == FOREIGN and os.geteuid() != 0:
            raise ImpossibleError("only root can run the tests as another user")
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
    """Return the environment of a clone's owner, and the arguments to run `subprocess` as the owner."""
    if name != FOREIGN:
        return dict(os.environ), {}
    identity = {"user": _USER, "group": path.stat().st_gid, "extra_groups": []}
    return {**os.environ, "HOME": str(path.parent), "USER": _USER, "LOGNAME": _USER}, identity


def run(name: str, arguments: Sequence[str], clones: Clones) -> Outcome:
    """Run the tests under a condition.

    Raises:
        ImpossibleError: This machine cannot create the condition.
    """
    condition, outcome = CONDITIONS[name], Outcome()
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-hostile-") as folder:
        Path(folder).chmod(0o777)
        environ = {"FOLDER": folder}
        check(condition, environ)
        checkouts = {each: clones.make(each) for each in condition.checkouts}
        started = time.monotonic()
        with load() if condition.is_busy else contextlib.nullcontext():
            commands = [["scripts/test", *arguments]]
            commands += [["make", "--silent", "demo"]] if condition.and_demo else []
            for number, command in enumerate(commands):
                with ThreadPoolExecutor() as pool:
                    results = {
                        where: pool.submit(run_in, where, path, condition, command, environ)
                        for where, path in checkouts.items()
                    }
                    for where, result in results.items():
                        output, status = wait_for(result)
                        log = LOGS / f"{name}-{number}-{where}.txt"
                        log.write_text(output, encoding="utf-8")
                        outcome.read(output, status)
        outcome.seconds = time.monotonic() - started
    return outcome


def wait_for(result: Future[tuple[str, int]]) -> tuple[str, int]:
    """Wait for a run. Kills all runs on an interrupt."""
    try:
        return result.result()
    except BaseException:
        for process in list(RUNNING):
            os.killpg(process.pid, signal.SIGKILL)
        raise


def check(condition: Condition, environ: Mapping[str, str]) -> None:
    """Raise `ImpossibleError` if the shell commands of a condition fail."""
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
    owner: str,
    path: Path,
    condition: Condition,
    command: Sequence[str],
    variables: Mapping[str, str],
) -> tuple[str, int]:
    """Run a command in a checkout. Return its output without escape sequences, and its status."""
    environ, identity = as_owner(owner, path)
    prelude = f'{condition.shell}\nexec "$@"'
    line = [*condition.wrapper, "sh", "-ec", prelude, "sh", *command]
    parent_end, child_end = pty.openpty() if condition.on_terminal else os.pipe()
    if condition.on_terminal:
        # The first terminal that the leader of a new session opens becomes its own.
        opening = 'exec "$@" <"$0" >"$0" 2>&1'
        line = ["sh", "-c", opening, os.ttyname(child_end), *line]
    process = subprocess.Popen(
        line,
        cwd=path,
        env={**environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=child_end,
        stderr=child_end,
        start_new_session=True,
        **identity,
    )
    os.close(child_end)
    RUNNING.add(process)
    timer = threading.Timer(_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    output = _ESCAPES.sub("", read(parent_end).decode(errors="replace")).replace("\r\n", "\n")
    status = process.wait()
    timer.cancel()
    RUNNING.remove(process)
    return output, status


def read(file: int) -> bytes:
    """Read a file to its end and close it."""
    pieces = []
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error.
        while piece := os.read(file, 65536):
            pieces.append(piece)
    os.close(file)
    return b"".join(pieces)


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Keep every processor busy."""
    command = ["timeout", str(_TIMEOUT_S), "sh", "-c", "while :; do :; done"]
    loops = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.terminate()
            loop.wait()


def main() -> int:
    """Run the conditions of the command line and print a table. Return 1 if a test failed."""
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="scripts/test-hostile", description=__doc__)
    parser.add_argument("conditions", nargs="*", metavar="CONDITION", help="default: all")
    parser.add_argument("--list", action="store_true", help="list the conditions")
    parser.add_argument(
        "--clones", type=Path, help="directory that keeps the clones for later runs"
    )
    options = parser.parse_args(words[:split])
    if unknown := set(options.conditions) - set(CONDITIONS):
        parser.error(
            f"CONDITION must be one of {', '.join(CONDITIONS)}, got {', '.join(sorted(unknown))}"
        )
    if options.list:
        print("\n".join(CONDITIONS))
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # The exit also kills the running tests.
    with tempfile.TemporaryDirectory(prefix="llamatelemetry-hostile-") as folder:
        clones = Clones(options.clones or Path(folder))
        return tabulate(options.conditions or CONDITIONS, [*words[split + 1 :], "--no-cov"], clones)


def tabulate(names: Iterable[str], arguments: Sequence[str], clones: Clones) -> int:
    """Print a line for each condition as soon as its result is known. Return 1 if a test failed."""
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
