"""Confinement of a process by itself: resource limits, and a filter that ends it at any unlisted system call.

The filter is Linux's seccomp, on x86-64 and ARM64; elsewhere `confine` says that it is missing, and the limits hold
alone. Standard library only: the sandbox's worker starts without any other package.
"""

import ctypes
import errno
import os
import platform
import resource
import struct

# System calls that computing needs, by number: memory, waiting, ending. read, write and mmap are looked at closer.
_PLAIN = {
    "x86_64": {
        *(11, 12, 25, 28),  # munmap, brk, mremap, madvise
        *(15, 60, 202, 219, 228, 231),  # rt_sigreturn, exit, futex, restart_syscall, clock_gettime, exit_group
    },
    "aarch64": {
        *(215, 214, 216, 233),
        *(139, 93, 98, 128, 113, 94),
    },
}
_READ, _WRITE, _MMAP = {"x86_64": 0, "aarch64": 63}, {"x86_64": 1, "aarch64": 64}, {"x86_64": 9, "aarch64": 222}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: of 32 bits, absolute, with a constant
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_NUMBER, _ARCH, _FIRST, _THIRD = 0, 4, 16, 32  # offsets into struct seccomp_data; of arguments the lower half
_PROT_EXEC = 4
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2


def confine(memory: int, seconds: int) -> list[str]:
    """Take away what computing does not need, for good; returns what could not be taken, in words.

    `memory`: bytes of address space. `seconds`: of processor, over the process's life.
    """
    missing = []
    bounds = {
        "RLIMIT_AS": memory,
        "RLIMIT_CPU": seconds,
        "RLIMIT_NOFILE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
    }
    for name, bound in bounds.items():
        try:
            resource.setrlimit(getattr(resource, name), (bound, bound))
        except (AttributeError, OSError, ValueError) as error:
            missing.append(f"no limit {name} ({error})")
    problem = filter_system_calls()
    return [*missing, f"no filter of system calls ({problem})"] if problem else missing


def filter_system_calls() -> str | None:
    """Let the kernel end this process at any system call that is not listed; returns why it cannot."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    if platform.system() != "Linux" or machine not in _ARCHITECTURE or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"there is none for {platform.system()} on {platform.machine()}"
    code = b"".join(_program(machine))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, None, 0, 0), (_PR_SET_SECCOMP, _FILTER_MODE, program, 0, 0)):
        if prctl(*call):
            return os.strerror(ctypes.get_errno() or errno.EINVAL)
    return None


def _program(machine: str) -> list[bytes]:
    """Instructions of the filter: every check that holds skips to ALLOW, the end is KILL."""

    def line(code: int, value: int, held: int = 0, failed: int = 0) -> bytes:
        return struct.pack("HBBI", code, held, failed, value)

    plain = sorted(_PLAIN[machine])
    looked_at = [
        # read from 0 alone, write to 1 alone, no memory that can be executed
        *(line(_EQUAL, _READ[machine], 0, 3), line(_LOAD, _FIRST), line(_EQUAL, 0, 0, 9), line(_RETURN, _ALLOW)),
        *(line(_EQUAL, _WRITE[machine], 0, 3), line(_LOAD, _FIRST), line(_EQUAL, 1, 0, 5), line(_RETURN, _ALLOW)),
        *(line(_EQUAL, _MMAP[machine], 0, 4), line(_LOAD, _THIRD), line(_ANY_BIT, _PROT_EXEC, 1, 0)),
        *(line(_RETURN, _ALLOW), line(_RETURN, _KILL)),
    ]
    return [
        line(_LOAD, _ARCH),
        line(_EQUAL, _ARCHITECTURE[machine], 1, 0),
        line(_RETURN, _KILL),
        line(_LOAD, _NUMBER),
        *looked_at,
        *(line(_EQUAL, number, len(plain) - place, 0) for place, number in enumerate(plain)),
        line(_RETURN, _KILL),
        line(_RETURN, _ALLOW),
    ]
