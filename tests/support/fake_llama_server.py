"""A fake llama-server with the `--help`, arguments and failures of new and old builds.

`make_server` writes the program, a Python script. The variable FAKE has its faults as JSON. The
program appends its arguments and environment to the file named by FAKE_RECORD.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tests.support.children import write_program


class Option(NamedTuple):
    names: str
    hint: str
    text: str


COMMON = [
    Option("-h,    --help, --usage", "", "print usage and exit"),
    Option("-c,    --ctx-size", "N", "size of the prompt context"),
    Option("-t,    --threads", "N", "number of threads to use during generation"),
    Option("-b,    --batch-size", "N", "logical maximum batch size (default: 2048)"),
    Option("-ub,   --ubatch-size", "N", "physical maximum batch size (default: 512)"),
    Option("-ts,   --tensor-split", "N0,N1,N2,...", "fraction of the model for each GPU, e.g. 3,1"),
    Option("-mg,   --main-gpu", "INDEX", "the GPU to use for the model"),
    Option("-ctk,  --cache-type-k", "TYPE", "KV cache data type for K"),
    Option("-ctv,  --cache-type-v", "TYPE", "KV cache data type for V"),
    Option("-m,    --model", "FNAME", "model path to load"),
    Option("-a,    --alias", "STRING", "set alias for model name (to be used by API)"),
    Option("-np,   --parallel", "N", "number of parallel sequences to decode"),
    Option("--pooling", "{none,mean,cls,last,rank}", "pooling type for embeddings"),
    Option("--host", "HOST", "ip address to listen (default: 127.0.0.1)"),
    Option("--port", "PORT", "port to listen (default: 8080)"),
    Option("--api-key", "KEY", "API key to use for authentication\n(env: LLAMA_API_KEY)"),
    Option("--metrics", "", "enable prometheus compatible metrics endpoint"),
    Option("--jinja", "", "use jinja template for chat"),
    Option("--chat-template", "JINJA_TEMPLATE", "set custom jinja chat template"),
    Option("--chat-template-file", "JINJA_TEMPLATE_FILE", "set custom jinja chat template file"),
    Option("--ssl-key-file", "FNAME", "path to file a PEM-encoded SSL private key"),
    Option("--ssl-cert-file", "FNAME", "path to file a PEM-encoded SSL certificate"),
    Option("--api-prefix", "PREFIX", "prefix path the server serves from"),
]
NEW = [
    *COMMON,
    Option("-fa,   --flash-attn", "[on|off|auto]", "set Flash Attention use (default: 'auto')"),
    Option(
        "-lm,   --load-mode",
        "MODE",
        "model loading mode (default: auto)\n- none: no special loading mode\n"
        "- mmap: memory-map model\n- mlock: force system to keep model in RAM\n"
        "- mmap+mlock: mmap + force system to keep model in RAM",
    ),
    Option(
        "-ngl,  --gpu-layers, --n-gpu-layers",
        "N",
        "max. number of layers to store in VRAM, either an exact number,\n'auto', or 'all'",
    ),
    Option("-sm,   --split-mode", "{none,layer,row,tensor}", "how to split the model"),
    Option("--embedding, --embeddings", "", "restrict to only support embedding use case"),
    Option("--rerank, --reranking", "", "enable reranking endpoint on server"),
    Option("--spec-draft-model, -md, --model-draft", "FNAME", "draft model"),
    Option("--spec-type", "none,draft-simple,ngram-mod", "types of speculative decoding"),
    Option("--draft, --draft-max", "N", "the argument has been removed. use --spec-draft-n-max"),
    Option("--models-dir", "PATH", "directory containing models for the router server"),
    Option(
        "-lv,   --verbosity, --log-verbosity",
        "N",
        "Set the verbosity threshold. Values:\n - 3: info\n - 4: trace (more info)\n(default: 3)",
    ),
]
OLD = [
    *COMMON,
    Option("-fa,   --flash-attn", "", "enable Flash Attention (default: disabled)"),
    Option("--mlock", "", "force system to keep model in RAM rather than swapping"),
    Option("--no-mmap", "", "do not memory-map model"),
    Option("-ngl,  --gpu-layers, --n-gpu-layers", "N", "number of layers to store in VRAM"),
    Option("-sm,   --split-mode", "{none,layer,row}", "how to split the model"),
    Option("--embedding, --embeddings", "", "restrict to only support embedding use case"),
    Option("--reranking, --rerank", "", "enable reranking endpoint on server"),
    Option("-md,   --model-draft", "FNAME", "draft model for speculative decoding"),
    Option("-lv,   --verbosity, --log-verbosity", "N", "Set the verbosity threshold."),
]
# The help of early 2024, when each name had its own placeholder.
ANCIENT_HELP = """\
usage: ./server [options]

options:
  -h, --help                show this help message and exit
  -t N,  --threads N        number of threads to use during computation (default: 4)
  -c N,  --ctx-size N       size of the prompt context (default: 512)
  --mlock                   force system to keep model in RAM rather than swapping
  --no-mmap                 do not memory-map model (slower load)
  -ngl N, --n-gpu-layers N
                            number of layers to store in VRAM
  -m FNAME, --model FNAME
                            model path (default: models/7B/ggml-model-f16.gguf)
  -np N, --parallel N       number of slots for process requests (default: 1)
  --host                    ip address to listen (default  (default: 127.0.0.1)
  --port PORT               port to listen (default  (default: 8080)
  -fa, --flash-attn         enable Flash Attention (default: disabled)
"""


def render_help(options: list[Option]) -> str:
    lines = ["----- common params -----", ""]
    for names, hint, text in options:
        head = f"{names} {hint}".rstrip()
        first, *rest = text.split("\n")
        if len(head) < 39:
            lines.append(f"{head:<40}{first}")
        else:
            lines += [head, f"{'':40}{first}"]
        lines += [f"{'':40}{line}" for line in rest]
    return "\n".join(lines) + "\n"


def make_server(
    directory: Path, options: list[Option] = NEW, *, name: str = "llama-server"
) -> Path:
    takes_value = {
        each: bool(option.hint)
        for option in options
        if "has been removed" not in option.text
        for each in option.names.replace(",", " ").split()
    }
    path = directory / name
    settings = {"help": render_help(options), "takes_value": takes_value}
    write_program(path, f"SETTINGS = {settings!r}\n{_PROGRAM}", "-IS")
    return path


def faults(**wanted: object) -> dict[str, str]:
    return {"FAKE": json.dumps(wanted)}


_PROGRAM = r"""
import http.server, json, os, signal, socketserver, sys, threading, time

def arguments():
    given, rest = {}, sys.argv[1:]
    while rest:
        name = rest.pop(0)
        if name not in SETTINGS["takes_value"]:
            sys.exit(f"error: invalid argument: {name}")
        given[name] = rest.pop(0) if SETTINGS["takes_value"][name] else True
    return given

if "--help" in sys.argv:
    print(SETTINGS["help"])
    sys.exit(0)

fault = json.loads(os.environ.get("FAKE", "{}"))
given = arguments()
if "FAKE_RECORD" in os.environ:
    with open(os.environ["FAKE_RECORD"], "a") as record:
        print(json.dumps({"argv": sys.argv, "env": dict(os.environ)}), file=record)
if fault.get("ignores_term"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def log(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()

for line in fault.get("log", ()):
    log(line)
# As a router starts its models, or a wrapper script the program.
if "helper" in fault:
    if not os.fork():
        if fault["helper"] == "runs away":
            os.setsid()
        time.sleep(600)
        os._exit(0)
loaded = threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    server_version, sys_version = "llama.cpp", ""
    def log_message(self, *_): ...
    def do_GET(self):
        if fault.get("hangs") and loaded.is_set():
            time.sleep(600)
        prefix = given.get("--api-prefix", "")
        status, body = 404, {"error": {"code": 404}}
        if self.path == prefix + "/health":
            status = 200 if loaded.is_set() else 503
            body = {"status": "ok"} if loaded.is_set() else {"error": {"message": "Loading model"}}
        elif self.path == prefix + "/props":
            body = {"build_info": "b4242-abcdef", "total_slots": int(given.get("--parallel", 1)),
                    "default_generation_settings": {"n_ctx": int(given.get("--ctx-size", 0))}}
            status = 200
        elif self.path == prefix + "/stream":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"data: {}\n\n")
                time.sleep(0.05)
        elif "first_request_kills" in fault:
            os.kill(os.getpid(), fault["first_request_kills"])
            # Another thread may handle the signal.
            time.sleep(600)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

if fault.get("silent"):
    time.sleep(600)
time.sleep(fault.get("binds_after_s", 0))
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
try:
    server = Server((given["--host"], int(given["--port"])), Handler)
except OSError as error:
    log(f"couldn't bind HTTP server socket: {error}")
    sys.exit(1)
if "--ssl-cert-file" in given:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given["--ssl-cert-file"], given["--ssl-key-file"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
log("srv    load_model: loading model")
time.sleep(fault.get("load_s", 0))
if "dies" in fault:
    log("llama_model_load: error loading model: " + fault["dies"])
    sys.exit(1)
if "kills_itself" in fault:
    log("the last words")
    os.kill(os.getpid(), fault["kills_itself"])
log("load_tensors: offloaded 31/31 layers to GPU")
log("load_tensors:        CUDA0 model buffer size =    92.10 MiB")
log("llama_kv_cache:      CUDA0 KV buffer size =    11.25 MiB")
log("sched_reserve:       CUDA0 compute buffer size =    15.00 MiB")
log("sched_reserve:   CUDA_Host compute buffer size =     1.00 MiB")
loaded.set()
log(f"main: server is listening on http://{given['--host']}:{given['--port']}")
flood, line = fault.get("flood_bytes", 0), "x" * fault.get("flood_line", 200)
while flood > 0:
    log(line)
    flood -= len(line) + 1
if fault.get("flood_bytes"):
    log("the flood is over")
if "crashes_after_s" in fault:
    time.sleep(fault["crashes_after_s"])
    log("GGML_ASSERT failed: the last words")
    os.abort()
time.sleep(600)
"""
