"""A program that `forked` runs is one of its own: what it prints, how it ends, and what it leaves behind."""

import forked


def test_a_program_prints_and_ends_as_any_other():
    """Arguments, variables, both outputs and handlers of the exit are its own, and the next one finds nothing of it."""
    code = "import atexit, os, sys\natexit.register(print, 'end')\nos.environ['LEFT'] = '1'\n"
    code += "print(sys.argv[1], os.environ['GIVEN'])\nprint('said', file=sys.stderr)"
    done = forked.run(code, "word", GIVEN="7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "word 7\nend\n", "said\n")
    assert forked.run("import os\nprint(os.environ.get('LEFT'))").stdout == "None\n"


def test_whatever_ends_a_program_is_told():
    """An exception, a status, a signal, and a warning where none is allowed."""
    failed = forked.run("1 / 0")
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    assert forked.run("raise SystemExit(3)").returncode == 3
    assert forked.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    warning = "import warnings\nwarnings.warn('old')"
    assert [forked.run(warning, strict=strict).returncode for strict in (False, True)] == [0, 1]
