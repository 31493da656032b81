"""Serve models over HTTP, with a web page. Under load, samples get fewer codes to meet deadlines.

`anytime serve mnist` listens at http://127.0.0.1:8000. `anytime serve a=runs/a/bundle mnist` serves
two models under the names a and mnist. With `--api-key-file`, whose lines are `NAME KEY`, every
request except /livez and /readyz needs a key. The server accepts its own host names and those of
`--allowed-hosts`; see docs/how-to/serve.md. SIGTERM finishes the running requests, then ends
the server.
`--engine ray --replicas 4` serves from four processes, on the cluster of RAY_ADDRESS or here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_device,
    add_precision,
    add_threads,
    parse_named_path,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser, literal_path, read_config
from anytime_ar.errors import InputError, require_extras
from anytime_ar.runtime.files import read_text
from anytime_ar.runtime.threads import available_cpus, check_threads, set_threads
from anytime_ar.serving.config import ModelSource, ServerConfig, load_models


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime serve`."""
    parser.add_argument("models", nargs="+", help="shipped name, folder, or Hub id; or NAME=PATH")
    parser.add_class_arguments(ServerConfig, as_group=False)
    parser.add_argument("--api-key-file", type=literal_path, help="lines of NAME KEY")
    add_threads(parser, "as of other commands, and at most all processors but one")
    parser.add_argument(
        "--engine",
        choices=["ray"],
        help="serve from several processes or machines, by Ray; see docs/how-to/serve.md",
    )
    parser.add_argument("--replicas", type=int | None, help="servers of engine ray; default: 1")
    add_precision(parser)
    add_device(parser)


def run(arguments: Namespace) -> None:
    """Serve models until SIGTERM or SIGINT."""
    require_extras("serving", "serve")
    from anytime_ar.serving.http.middleware import key_digest
    from anytime_ar.serving.http.server import listen, serve
    from anytime_ar.serving.logs import log_event, log_to_stderr

    if arguments.threads is not None:
        check_threads(arguments.threads, processes=1 if arguments.engine is None else None)
    if arguments.replicas is not None and arguments.engine is None:
        raise InputError(f"replicas={arguments.replicas} is for --engine ray; add it, or drop this")
    replicas = 1 if arguments.replicas is None else arguments.replicas
    if replicas < 1:
        raise InputError(f"replicas={replicas} serves nobody; pass at least 1")
    config = read_config(ServerConfig, arguments)
    keys = None
    if arguments.api_key_file is not None:
        keys = {key_digest(key): name for name, key in _read_api_keys(arguments.api_key_file)}
    listen(config.host, config.port).close()  # before models are loaded, which takes a while
    sources = _model_sources(arguments)
    names = [source.name for source in sources]
    # Replicas load their own copies, where the GPUs are. Loading here as well reports errors early.
    here = [replace(source, device="cpu") for source in sources] if arguments.engine else sources
    models = load_models(here)
    log_to_stderr()

    def listening(url: str) -> None:
        print(f"anytime: serving {', '.join(names)} at {url}", flush=True)
        log_event("listening", url=url, models=names, threads=torch.get_num_threads())

    spare = max(1, available_cpus() - 1)  # one processor for HTTP and files
    if arguments.engine is None:
        set_threads_from(arguments)
        tune_threads_without_kernel(arguments)
        if arguments.threads is None:
            set_threads(min(spare, torch.get_num_threads()))
        serve(models, config, keys=keys, on_listening=listening)
    else:
        from anytime_ar.serving.cluster.launcher import serve_cluster

        models.clear()
        serve_cluster(
            sources,
            config,
            replicas=replicas,
            threads_per_replica=arguments.threads or spare,
            keys=keys,
            on_listening=listening,
        )


def _model_sources(arguments: Namespace) -> list[ModelSource]:
    """Return the sources of the models by the names to serve them under.

    Raises:
        InputError: two models have the same name.
    """
    sources: dict[str, ModelSource] = {}
    for which in arguments.models:
        given, where = parse_named_path(which)
        name = given or Path(which).name
        if name in sources:
            raise InputError(f"two models are called {name!r}; name one of them: NAME={where}")
        sources[name] = ModelSource(name, where, arguments.device, arguments.precision)
    return [*sources.values()]


def _read_api_keys(path: Path) -> list[tuple[str, str]]:
    """Return the names and keys of a file, without empty lines and lines that begin with #.

    Raises:
        InputError: a line is malformed, there are no keys, or a key occurs twice.
    """
    lines = read_text(path).splitlines()
    pairs = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise InputError(f"{path}, line {number}: expected NAME KEY, got {len(words)} words")
        pairs.append((words[0], words[1]))
    if not pairs:
        raise InputError(f"{path}: holds no keys; write lines of NAME KEY")
    if len({key for _, key in pairs}) < len(pairs):
        raise InputError(f"{path}: two clients have the same key; give each its own")
    return pairs
