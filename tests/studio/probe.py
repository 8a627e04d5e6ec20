"""Request the health of a studio repeatedly, until the input ends: `python probe.py PORT PID`. It
is a separate process, since many threads would delay its clock.

It prints a line for each answer: the seconds it took, and the CPU seconds that the studio's server
used meanwhile. Other programs on the machine cause the difference.
"""

import os
import select
import socket
import sys
import time
from pathlib import Path

ASKED = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def used(pid: str) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(port: str, pid: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        print("asking", flush=True)
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            start, cpu_start, response = time.perf_counter(), used(pid), b""
            connection.sendall(ASKED)
            while b'{"status":"ok"}' not in response:
                response += connection.recv(4096)
            print(time.perf_counter() - start, used(pid) - cpu_start)


if __name__ == "__main__":
    main(*sys.argv[1:])
