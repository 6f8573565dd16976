"""`tinyinfer serve`: a model over HTTP, for any client that speaks OpenAI's API.

Requests of all connections share the steps of one engine. A paged prefix cache is on unless told otherwise: the calls
of a conversation, and of many users with one system prompt, begin with the same tokens.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tinyinfer import __version__
from tinyinfer.cli.arguments import UsageError, add_fields, add_model_arguments, add_switches, opened
from tinyinfer.cli.console import say
from tinyinfer.server.switches import ServerSwitches

KEY = "TINYINFER_API_KEY"


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tinyinfer serve` and its flags to the commands."""
    about = "serve a model over HTTP, to any client that speaks OpenAI's API"
    more = "; a paged prefix cache keeps what requests begin with, unless told otherwise; needs the extra 'serve'"
    parser = commands.add_parser("serve", help=about, description=about + more)
    add_fields(parser, "server", ServerSwitches)
    add_model_arguments(parser)
    add_switches(parser, kv_cache="paged", prefix_cache=None)  # None: on, if the cache has blocks
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal. Raises SwitchError for what cannot work, UsageError where the extra is missing."""
    if args.prefix_cache is None:
        args.prefix_cache = args.kv_cache == "paged"
    given = {one.name: getattr(args, one.name) for one in fields(ServerSwitches)}
    given |= {"allowed_host": tuple(args.allowed_host), "api_key": keys(args.api_key, os.environ)}
    switches, process = ServerSwitches(**given), find_server()
    with process.bind(switches) as bound, opened(args) as llm:
        service = process.Service(llm, args.model, switches, __version__, say)
        if switches.log_json:
            service.log(note="ready to serve", model=service.name, url=f"{address(switches)}/v1")
        else:
            say(f"tinyinfer: {service.name} at {address(switches)}/v1; Ctrl-C ends")
        process.run(service, bound)
    return 0


def keys(given: list[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of the command line; without any, those of the environment, one a line."""
    lines = environment.get(KEY, "").splitlines()
    return tuple(given) or tuple(line.strip() for line in lines if line.strip())


def find_server() -> Any:
    """The module that serves. Raises UsageError where a package of the extra is missing."""
    try:
        from tinyinfer.server import process
    except ModuleNotFoundError as error:
        reason = f"serve needs the module {error.name}, which is not installed"
        raise UsageError(f"{reason}; pip install 'tinyinfer[serve]'") from error
    return process


def address(switches: ServerSwitches) -> str:
    """Where clients find the server."""
    host = f"[{switches.host}]" if ":" in switches.host else switches.host
    return f"http://{host}:{switches.port}"
