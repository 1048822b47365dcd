"""What explains the duration of a call, recorded on its span: the option `diagnostics`.

Nothing here is loaded while the option is off. A call then costs one comparison.
"""

from llamatelemetry.genai.diagnostics.recorder import CallDiagnostics, Diagnostics
from llamatelemetry.genai.diagnostics.server_process import sampler

__all__ = ["CallDiagnostics", "Diagnostics", "sampler"]
