"""Set up OpenTelemetry in a Python process of `llamatelemetry run`.

Python imports this module when it starts, because `run` puts this directory in front of
`PYTHONPATH`. It must work in every interpreter that a command can start, so it uses old syntax and
imports nothing outside a guard.
"""

import os
import sys

# Directories of modules that do the same as this one.
_OWN = (
    os.path.join("llamatelemetry", "local", "startup"),
    os.path.join("opentelemetry", "instrumentation", "auto_instrumentation"),
)


def _run_hidden():
    """Run the `sitecustomize` of the user or of the Linux distribution, which this module hides."""
    try:
        from importlib.machinery import PathFinder
        from importlib.util import module_from_spec
    except ImportError:  # Python 2
        return
    path = [each for each in sys.path if not os.path.abspath(each).endswith(_OWN)]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


def _start():
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Processes that the set-up itself starts are not to be instrumented.
    os.environ["PYTHONPATH"] = os.pathsep.join(each for each in path if each != here)
    try:
        _initialize()
        _report()
    except Exception as error:
        _report(str(error))
        # Other programs read the output of nested processes, so only the command itself reports.
        if os.environ.get("_LLAMATELEMETRY_RUN_PID") == str(os.getppid()):
            sys.stderr.write(
                "llamatelemetry run: nothing is recorded in %s: %s. Install llamatelemetry there: "
                "%s -m pip install llamatelemetry\n" % (sys.executable, error, sys.executable)
            )
    finally:
        os.environ["PYTHONPATH"] = os.pathsep.join(path)


def _report(error=""):  # pyright: ignore[reportMissingParameterType]
    """Leave a file that says that this process was reached: its interpreter, and what failed."""
    folder = os.environ.get("_LLAMATELEMETRY_RUN_PROCESSES")
    if folder:
        try:
            with open(os.path.join(folder, str(os.getpid())), "w") as file:
                file.write(sys.executable + "\n" + error)
        except OSError:  # `run` has ended
            return


def _initialize():
    try:
        # First: it replaces invalid variables that OpenTelemetry reads when it is imported. An
        # environment with OpenTelemetry alone exports its own spans.
        __import__("llamatelemetry")
    except ImportError:
        pass
    import importlib

    name = "opentelemetry.instrumentation.auto_instrumentation"
    importlib.import_module(name).initialize()


try:
    _run_hidden()
finally:
    _start()
