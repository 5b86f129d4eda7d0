"""The first import of a command. It loads next to nothing, so that Ctrl-C is taken care of from then on."""

import os
import signal


def begin_command(prog: str) -> None:
    """Do what comes before a command's imports: from now on, Ctrl-C ends it with one line and exit code 130.

    What libraries read from the environment, and fail if it means nothing to them, is put right or removed.
    """

    def quit(number, frame):
        os.write(2, f"{prog}: interrupted before it began\n".encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, quit)
    os.environ["MPLBACKEND"] = "agg"  # figures go to files, whatever else is asked for
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    if settings := [name for name in os.environ if name.startswith("TQDM_")]:
        try:
            import tqdm  # noqa: F401
        except (ValueError, ImportError):
            for name in settings:
                del os.environ[name]
