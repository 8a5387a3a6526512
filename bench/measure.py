#!/usr/bin/env python3
"""Run a command and print what it took, as JSON: seconds, cpu_seconds, peak_mb, status.

    python measure.py LOG COMMAND [ARGUMENT…]        # the command's own output goes to the file LOG

A process of its own on purpose: on Linux a child's peak memory starts at that of whoever started it
(`exec` carries the old peak over), so a benchmark that holds data itself would report its own memory.
This one holds nothing: peaks below its own 10 MB or so are not seen.
"""

import argparse
import json
import os
import subprocess
import time


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("log", help="file for the command's own output")
    arguments.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    options = arguments.parse_args()
    with open(options.log, "wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
                      "peak_mb": usage.ru_maxrss / 1024, "status": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main()
