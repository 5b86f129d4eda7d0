"""What all tests share: one seed, printed at the head of each run, and the framework under test."""

import signal

import hypothesis
import pytest

from tests.launcher import Launcher

# The examples that Hypothesis draws follow from the seed alone, so that a run can be repeated anywhere.
hypothesis.settings.register_profile("suite", max_examples=40, deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("suite")

COMMANDS = {
    f"tests/experiments/test_{name}.py" for name in ("commands", "digits", "distributed", "resume", "sweep", "test")
}
"""The files whose tests start commands."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # A shell that starts pytest in the background lets it ignore Ctrl-C, and with it all commands that tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before Hypothesis reads its own option. A worker of pytest-xdist gets the option from the main process.
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distribute files as --dist=loadfile does, but COMMANDS to one worker, which needs only one launcher for them."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "commands" if file in COMMANDS else file

    return Scheduling(config, log)


def pytest_report_header(config):
    return f"seed {config.option.hypothesis_seed}; repeat or vary it with --hypothesis-seed=N"


def pytest_terminal_summary(terminalreporter, config):
    # With -q there is no header, and a failure is when the seed is wanted.
    if terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"repeat this run with --hypothesis-seed={config.option.hypothesis_seed}")


@pytest.fixture(autouse=True)
def seed(request) -> int:
    """Seed PyTorch's random numbers before each test."""
    import torch  # not above: the main process of pytest-xdist, which all workers wait for, does without

    try:
        number = int(request.config.option.hypothesis_seed)
    except ValueError:  # --hypothesis-seed=random
        number = 0
    torch.default_generator.manual_seed(number)
    return number


@pytest.fixture(scope="session")
def diy():
    """The framework. Tests that take it as an argument can also be asked about a copy with a planted bug."""
    import diy

    return diy


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    """Starts commands of this project as processes of their own, see tests/launcher.py."""
    launcher = Launcher(tmp_path_factory.mktemp("outputs"))
    yield launcher
    launcher.close()
