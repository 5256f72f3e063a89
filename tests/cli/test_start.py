"""How the process begins."""

import subprocess
import sys


def test_garbage_is_looked_for_once_the_command_line_is_loaded() -> None:
    program = (
        "import gc, sys; sys.argv = ['changefeed', '--version']\n"
        "from changefeed_gateway.cli.start import main\n"
        "assert 'changefeed_gateway.cli.main' not in sys.modules\n"
        "try: main()\n"
        "finally: print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("changefeed ")
    assert done.stdout.endswith("True\n")
