"""A page to try networks on photos in a browser: drop one, and see its classes.

    python app.py                       # one's own runs and the published networks
    python app.py --id ID --imgSize -1

It is served to this machine alone. Photos stay in a temporary folder, which is removed in the end.
It needs a package: pip install gradio
"""

import argparse
import os
import signal
import socket
import tempfile
import threading
from contextlib import suppress

from browser.networks import Networks
from models import ModelError
from options import Parser, within
from utils import UserError, run_script

HOST = "127.0.0.1"


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id", help="the network that is chosen at first: see test.py --list_ids")
    parser.shared("suffix")
    parser.group("data")
    parser.shared("imgSize", default=384)
    parser.group("hardware")
    parser.shared("device", "amp")
    parser.add_argument("--port", type=within(int, 1, 2**16), default=7860, help="of the page")
    parser.group("output")
    parser.shared("ckpt")
    return parser.parse_args()


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="segmentation-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            from browser.page import Page
        except ImportError as error:
            raise UserError("app.py needs a package: pip install gradio") from error
        networks = Networks(args)
        if args.id:
            networks.load(args.id)
        check_free(args.port)
        Page(networks).serve(HOST, args.port)
        print(f"http://{HOST}:{args.port}   (Ctrl-C ends it)")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def check_free(port: int) -> None:
    """Check that nothing else is served at a port.

    Raises:
        UserError: something is.
    """
    with socket.socket() as probe:
        if not probe.connect_ex((HOST, port)):
            raise UserError(f"--port {port} is taken, perhaps by another page; choose another")


if __name__ == "__main__":
    run_script(main, ModelError)
