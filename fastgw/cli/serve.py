"""`fastgw serve`: run the gateway until a signal stops it.

What enters: flags, each standing for one key of the configuration. What leaves: the exit code of
`fastgw.server.serve`, which does the work and is imported only here, when it is needed.
"""

from __future__ import annotations

import functools
import gc
import os

import click

from fastgw.cli._common import config_option, data_option, debug_option, nats_option
from fastgw.config import load


@click.command("serve")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to serve HTTP; port 0 takes a free one [key listen;"
    " default 127.0.0.1:4444, and 0.0.0.0:4444 with --nats].",
)
@data_option
@nats_option
@click.option("--workers", metavar="N|auto", help="Worker processes [key workers; default 1].")
@config_option
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="debug, info, warning or error [key log.level; default info].",
)
@debug_option
def command(
    listen: str | None,
    data: str | None,
    nats: str | None,
    workers: str | None,
    config_path: str | None,
    log_level: str | None,
) -> int:
    """Run the gateway.

    Without --nats it starts a broker of its own, which keeps its data in --data. On the first
    start it makes an admin, shows the password once, and prints commands to paste.

    Every key can also stand in the file or the environment: flags win over FASTGW_… variables,
    and those over the file. `fastgw config show` tells what counts.
    """
    flags = {
        "listen": listen,
        "data": data,
        "nats.url": nats,
        "workers": workers,
        "log.level": log_level,
    }
    read = functools.partial(load, config_path, os.environ, flags)
    loaded = read()
    # WHY: what modules make stays. The collector would look through all of it with every few that
    # are loaded, and in each worker once more, where a look alone makes a copy of shared memory.
    gc.disable()
    from fastgw.server import serve

    gc.freeze()
    gc.enable()
    return serve(loaded, read)
