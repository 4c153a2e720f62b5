"""Attempts to break out of the sandbox: sources that no parser has looked at, and greedy ones that it lets pass.

`ROUTES` reach the interpreter's modules from within a candidate, `PAYLOADS` do harm with them, `ATTACKS` hang, crash or
lie. `HUNGRY` are in the language of candidates, and want all memory or time.

Harm is to create the file HARM, to send the parent SIGUSR1, to connect to the port PORT, or to say what the file SECRET
or the environment holds; these words are replaced before a source is run.
"""

from textwrap import indent

from tests.helpers.escapes import module

# Each sets `modules`: those of the interpreter, by name.
ROUTES = {
    "subclasses": """
classes = ().__class__.__base__.__subclasses__()
modules = [c for c in classes if c.__name__ == "_wrap_close"][0].__init__.__globals__["sys"].modules""",
    "importer": """
classes = ().__class__.__base__.__subclasses__()
modules = [c for c in classes if c.__name__ == "BuiltinImporter"][0].load_module("sys").modules""",
    "globals of a helper": """
modules = iou.__globals__["builtins"].__import__("sys").modules""",
    "globals of a guard": """
modules = _times.__globals__["__builtins__"]["__import__"]("sys").modules""",
    "globals of a view": """
modules = answer.__class__.__init__.__globals__["__builtins__"]["__import__"]("sys").modules""",
    "owner of a builtin": """
modules = abs.__self__.__import__("sys").modules""",
    "owner of a math function": """
modules = math.exp.__self__.__spec__.__class__.__init__.__globals__["sys"].modules""",
    "globals of a lambda": """
modules = (lambda: 0).__globals__["iou"].__globals__["builtins"].__import__("sys").modules""",
    "frames of a generator": """
g = (g.gi_frame.f_back for _ in [0])
f = list(g)[0]
while "sys" not in f.f_globals:
    f = f.f_back
modules = f.f_globals["sys"].modules""",
    "frames of a coroutine": """
async def c():
    return c
f = c().cr_frame
modules = f.f_globals["iou"].__globals__["builtins"].__import__("sys").modules""",
    "frames of an exception": """
try:
    1 / 0
except abs.__self__.Exception as e:
    f = e.__traceback__.tb_frame
while "sys" not in f.f_globals:
    f = f.f_back
modules = f.f_globals["sys"].modules""",
    "a function made of code": """
make = iou.__class__
modules = make((lambda: sys.modules).__code__, {"sys": abs.__self__.__import__("sys")})()""",
    "a class made by type": """
kind = answer.__class__.__class__
made = kind("Made", (), {"__getattr__": lambda self, name: abs.__self__.__import__(name)})()
modules = made.sys.modules""",
    "a match on attributes": """
match abs:
    case object_ if object_:
        modules = object_.__self__.__import__("sys").modules""",
    "the garbage collector": """
gc = abs.__self__.__import__("gc")
modules = [d for d in gc.get_objects() if d.__class__ is {}.__class__ and "posix" in d and "sys" in d][0]""",
}

FREED = "__builtins__.update(abs.__self__.__dict__)\nposix = modules['posix']"
CREATE = "posix.close(posix.open(HARM, posix.O_CREAT | posix.O_WRONLY))"
LIBC = "libc = modules['ctypes'].CDLL(None)"
# The system calls in these are all unlisted: the kernel has to end the worker.
PAYLOADS = {
    "a file": CREATE,
    "a file by io": "open(HARM, 'w').close()",
    "a file by libc": f"{LIBC}\nlibc.creat(HARM.encode(), 511)",
    "a folder": "posix.mkdir(HARM)",
    "a link": "posix.symlink(SECRET, HARM)",
    "a shell": "posix.system('touch ' + HARM)",
    "a shell by libc": f"{LIBC}\nlibc.system(b'touch ' + HARM.encode())",
    "another program": "posix.execv('/bin/sh', ['sh', '-c', 'touch ' + HARM])",
    "another program, spawned": "posix.posix_spawn('/bin/sh', ['sh', '-c', 'touch ' + HARM], {})\nwhile True: pass",
    "a process": f"if posix.fork() == 0:\n    {CREATE}",
    "a process by libc": f"{LIBC}\nif libc.fork() == 0:\n    {CREATE}",
    "a thread": f"thread = modules['_thread']\nthread.start_new_thread(lambda: {CREATE}, ())\nwhile True: pass",
    "a signal to the parent": "posix.kill(posix.getppid(), 10)",
    "a signal by libc": f"{LIBC}\nlibc.kill(libc.getppid(), 10)",
    "a signal by number": f"{LIBC}\nlibc.syscall(62, libc.syscall(110), 10)",
    "a connection by libc": f"""{LIBC}
address = modules["ctypes"].create_string_buffer(bytes([2, 0, PORT >> 8, PORT & 255, 127, 0, 0, 1, 0, 0, 0, 0]))
libc.connect(libc.socket(2, 1, 0), address, 16)""",
    "a secret file": "raise ValueError(open(SECRET).read())",
    "a secret file by libc": f"""{LIBC}
room = modules["ctypes"].create_string_buffer(99)
libc.read(libc.open(SECRET.encode(), 0), room, 99)
raise ValueError(room.value.decode())""",
    "an inherited file": """
for number in range(3, 1024):
    try:
        text = posix.read(number, 99)
    except OSError:
        continue
    raise ValueError(text.decode())""",
}
# No system call is needed for this: what it asks for must not be there.
ENVIRONMENT = "raise ValueError(str(posix.environ))"
# More system calls that a process could be harmful with, by number on x86-64.
CALLS = {
    **{"openat": 257, "open": 2, "socket": 41, "connect": 42, "clone": 56, "fork": 57, "vfork": 58, "execve": 59},
    **{"kill": 62, "tkill": 200, "tgkill": 234, "ptrace": 101, "prctl": 157, "setrlimit": 160, "prlimit64": 302},
    **{"process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "execveat": 322, "io_uring_setup": 425},
    **{"bpf": 321, "seccomp": 317, "unshare": 272, "mount": 165, "chroot": 161, "setuid": 105, "clone3": 435},
    **{
        "openat2": 437,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "mprotect": 10,
        "dup2": 33,
        "pipe": 22,
        "ioctl": 16,
    },
    **{
        "sendto": 44,
        "shmget": 29,
        "unlink": 87,
        "rename": 82,
        "chmod": 90,
        "truncate": 76,
        "nanosleep": 35,
        "pause": 34,
    },
    **{"personality": 135, "userfaultfd": 323, "perf_event_open": 298, "keyctl": 250, "x32 open": 0x40000002},
}

# Hangs, crashes and lies; `modules` as above.
ATTACKS = {
    "a loop": "while True: pass",
    "a loop that catches everything": "while True:\n    try:\n        while True: pass\n    except: pass",
    "a loop over memory that fails": "while True:\n    try:\n        x = bytearray(10000000000)\n    except: pass",
    "a large number": "x = (10).__pow__(100000000)",
    "a large text": "x = 'a'.zfill(100000000000)",
    "a large array": "x = bytearray(100000000000)",
    "a list without end": "x = list(iter(int, 1))",
    "a text of a width": "x = '{:>99999999999}'.format(1)",
    "deep recursion": "def f(): return f()\nf()",
    "deeper recursion": "modules['sys'].setrecursionlimit(1000000000)\ndef f(): return [f()]\nf()",
    "a deep tuple, hashed": "t = ()\nfor _ in [0].__mul__(1000000): t = (t,)\nx = {t: 1}",
    "a deep list, returned": "x = []\nfor _ in [0].__mul__(99999): x = [x]\nreturn {'a': x}",
    "a null pointer": "modules['ctypes'].string_at(0)",
    "a wild write": "modules['ctypes'].memset(4096, 0, 99)",
    "executable memory": "modules['ctypes'].CDLL(None).mmap(0, 4096, 7, 34, -1, 0)",
    "abort": "posix.abort()",
    "the end": "posix._exit(0)",
    "the end, by exception": "raise SystemExit",
    "an interrupt": "raise KeyboardInterrupt",
    "an error that hangs": """
class E(Exception):
    def __str__(self):
        while True: pass
raise E()""",
    "an error that fails": """
class E(BaseException):
    def __str__(self): raise E()
raise E()""",
    "a long error": "raise ValueError('a'.__mul__(10000000))",
    "an error of many lines": "raise ValueError('a\\n\\x1b[31m\\n'.__mul__(99))",
    "silence": "posix.read(0, 10)",
    "a flood": "while True: posix.write(1, b'a'.__mul__(60000))",
    "a flood of lines": "while True: posix.write(1, b'{}\\n'.__mul__(9999))",
    "no JSON": "posix.write(1, b'\\xff\\xfe\\n')",
    "deep JSON": "posix.write(1, b'['.__mul__(60000) + b'\\n')\nwhile True: pass",
    "other JSON": "posix.write(1, b'[1, 2]\\n')\nwhile True: pass",
    "a large value": 'posix.write(1, b\'{"terms": {"a": 1e308}}\\n\')\nwhile True: pass',
    "an infinite value": 'posix.write(1, b\'{"terms": {"a": Infinity}}\\n\')\nwhile True: pass',
    "no value": 'posix.write(1, b\'{"terms": {"a": NaN}}\\n\')\nwhile True: pass',
    "a value of digits": "posix.write(1, b'{\"terms\": {\"a\": ' + b'9'.__mul__(5000) + b'}}\\n')\nwhile True: pass",
    "an odd name": 'posix.write(1, b\'{"terms": {"<script>": 1.0}}\\n\')\nwhile True: pass',
    "an odd failure": 'posix.write(1, b\'{"kind": [], "line": {}, "message": {"a": 1}}\\n\')\nwhile True: pass',
    "many terms": "return {'a'.__mul__(i): 1.0 for i in list(range(9999))}",
    "a float that is none": """
class F(float):
    def __abs__(self): return 0.0
return {'a': F(1e300)}""",
    "a dict that is none": "class D(dict): pass\nreturn D(a=1.0)",
    "a name that is none": "class S(str): pass\nreturn {S('a'): 1.0}",
    "closed pipes": "posix.close(1)",
    "a patched worker": """
g = (g.gi_frame.f_back for _ in [0])
f = list(g)[0]
while "_checked" not in f.f_globals:
    f = f.f_back
f.f_globals["_checked"] = lambda terms: {"terms": {"a": 1e9}}""",
    "a patched reader": """
g = (g.gi_frame.f_back for _ in [0])
f = list(g)[0]
while "_checked" not in f.f_globals:
    f = f.f_back
f.f_globals["_reply"] = lambda reply: posix.write(1, b'{"terms": {"a": 1e9}}\\n{"terms": {"a": 1e9}}\\n')""",
}

HUNGRY = {
    "loops": module("x = 0", *("    " * i + f"for i{i} in range(9999):" for i in range(6)), "    " * 6 + "x = x + 1"),
    "comprehensions": module("x = sum(1 for a in range(9999) for b in range(9999) for c in range(9999))"),
    "a list doubled": module("x = [1]", "for _ in range(99):", "    x = x + x"),
    "a text doubled": module("x = 'a'", "for _ in range(99):", "    x = x + x"),
    "a number doubled": module("x = 1", "for _ in range(9999):", "    for _ in range(9999):", "        x = x + x"),
    "a number squared": module("x = 9", "for _ in range(99):", "    x = x * x", "return {'a': x}"),
    "a tower of powers": module("x = 9 ** 9 ** 9 ** 9"),
    "a list times": module("x = [0] * 999999999"),
    "a text times": module("x = 'a' * 999999999"),
    "a text of a width": module("x = '%999999999d' % 3"),
    "a range": module("x = list(range(999999999))"),
    "a rounded number": module("x = round(5, -999999999)"),
    "digits": module("x = '9'", "for _ in range(20):", "    x = x + x", "x = int(x)"),
    "deep tuples": module(
        "x = ()", "for _ in range(9999):", "    for _ in range(999):", "        x = (x,)", "x = {x: 1}"
    ),
    "deep lists, compared": module(
        "x = []", "y = []", "for _ in range(9999):", "    x = [x]", "    y = [y]", "x = x == y"
    ),
    "a deep list, returned": module("x = []", "for _ in range(9999):", "    x = [x]", "return {'a': x}"),
    "lists in each other": module("x = []", "y = [x]", "x.append(y)", "return {'a': x == y}"),
    "many terms": module("x = {}", "for i in range(9999):", "    x[i] = 1.0", "return x"),
    "a long name": module("x = 'a'", "for _ in range(20):", "    x = x + x", "return {x: 1.0}"),
    "infinity": module("return {'a': math.inf}"),
    "no number": module("return {'a': math.inf - math.inf}"),
    "words split": module("x = [answer.think.split('a') for _ in range(9999) for _ in range(999)]"),
    "sets": module("x = [set(range(9999)) for _ in range(9999)]"),
    "sums of lists": module("x = sum([list(range(9999)) for _ in range(9999)], [])"),
    "a slice": module("x = list(range(9999))", "for i in range(9999):", "    x[i:i] = x"),
    "a zip": module("x = [list(zip(range(9999), range(9999), range(9999))) for _ in range(9999)]"),
    "sorting": module(
        "for _ in range(9999):", "    for _ in range(9999):", "        x = sorted(range(9999), reverse=True)"
    ),
}


def breakout(payload: str, route: str = "globals of a helper") -> str:
    """A candidate that takes a route, gets all builtins back, and then does harm."""
    lines = f"{ROUTES[route].strip()}\n{FREED}\n{payload.strip()}"
    return module(*lines.split("\n"))


def at_import(payload: str) -> str:
    """The same when its module is read."""
    return f"{ROUTES['owner of a builtin'].strip()}\n{FREED}\n{payload.strip()}\n{module('x = 1')}"


def by_decorator(payload: str) -> str:
    """The same in a decorator of the reward."""
    lines = [ROUTES["owner of a builtin"].strip(), *FREED.split("\n"), payload.strip(), "return f"]
    return "def harm(f):\n" + indent("\n".join(lines), "    ") + f"\n@harm\n{module('x = 1')}"


def by_number(call: int) -> str:
    """A system call by its number, without arguments."""
    return breakout(f"{LIBC}\nlibc.syscall({call}, 0, 0, 0, 0, 0, 0)")
