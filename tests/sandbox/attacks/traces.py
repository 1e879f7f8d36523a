"""A5: state that outlives a program. A sender leaves a sign. A receiver must print the same as without a sender."""

from __future__ import annotations

# Each pair is (sender, receiver). A receiver prints everything it sees, so the test need not know where the sign is.
_FOLDERS = "('/tmp', '.', '/', '/dev', '/usr', '/usr/lib', __import__('sys').prefix)"
PAIRS = {
    "times of the scratch folder": (
        "import os\nos.utime('/tmp', ns=(1111111111111111111, 1234567890123456789))",
        "import os\ns = os.stat('/tmp')\n"
        "print(s.st_mtime_ns == 1234567890123456789, s.st_atime_ns == 1111111111111111111)",
    ),
    "times of the scratch folder, by a file": (
        "import os\nopen('/tmp/x', 'w').close()\nos.unlink('/tmp/x')\nos.utime('/tmp', (86400, 86400))",
        "import os\nprint(os.stat('/tmp').st_mtime < 10**6, os.stat('/tmp').st_atime < 10**6)",
    ),
    "mode of the scratch folder": (
        "import os\nos.chmod('/tmp', 0o1751)",
        "import os\nprint(oct(os.stat('/tmp').st_mode))",
    ),
    "mode of the scratch folder, sticky bits": (
        "import os\nos.chmod('/tmp', 0o7700)",
        "import os\nprint(oct(os.stat('/tmp').st_mode))",
    ),
    "entries of the scratch folder": (
        "import os\nfor name in ('a', '.b', ' ', '\\n', 'x' * 255, '\\udcff'):\n"
        "  open(os.fsencode('/tmp/' + name) if name != '\\udcff' else b'/tmp/\\xff', 'w').close()\n"
        "os.makedirs('/tmp/d/e/f')",
        "import os\nprint(sorted(os.listdir(b'/tmp')), os.stat('/tmp').st_size, os.stat('/tmp').st_nlink)",
    ),
    "a folder nobody may enter": (
        "import os\nos.makedirs('/tmp/d/e')\nopen('/tmp/d/e/f', 'w').close()\nos.chmod('/tmp/d/e', 0)\n"
        "os.chmod('/tmp/d', 0)",
        "import os\nprint(sorted(os.listdir('/tmp')))",
    ),
    "space in the scratch folder": (
        "f = open('/tmp/big', 'wb')\nf.write(b'x' * 3_000_000)\nf.flush()\nimport os\nos.unlink('/tmp/big')",
        "import os\ns = os.statvfs('/tmp')\nprint(s.f_bfree, s.f_ffree)",
    ),
    "times of the null device": (
        "import os, time\nfor how in (lambda: os.utime('/dev/null'), lambda: os.utime('/dev/null', (5, 5)),\n"
        "    lambda: open('/dev/null', 'w').write('x'), lambda: open('/dev/null').read(), "
        "lambda: os.truncate('/dev/null', 0),\n"
        "    lambda: os.utime(os.open('/dev/null', os.O_RDWR))):\n  try: how()\n  except OSError: pass",
        "import os\ns = os.stat('/dev/null')\nprint(s.st_mtime_ns, s.st_ctime_ns, s.st_atime_ns)",
    ),
    "mode and owner of the null device": (
        "import os\nfor how in (lambda: os.chmod('/dev/null', 0o640), "
        "lambda: os.chown('/dev/null', os.getuid(), -1)):\n"
        "  try: how()\n  except OSError: pass",
        "import os\ns = os.stat('/dev/null')\nprint(oct(s.st_mode), s.st_uid, s.st_gid)",
    ),
    "times of everything else": (
        f"import os\nfor path in {_FOLDERS}:\n  try: os.utime(path)\n  except OSError: pass",
        f"import os\nfor path in {_FOLDERS}:\n"
        "  if path not in ('/tmp', '.'): print(path, os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns)",
    ),
    "files anywhere": (
        "import os\nfor root, dirs, files in os.walk('/'):\n"
        "  if root.count('/') < 6 and root != '/tmp':\n"
        "    try: open(os.path.join(root, 'sign'), 'w').write('x')\n    except OSError: pass",
        "import os\nprint([root for root, dirs, files in os.walk('/') if 'sign' in files])",
    ),
    "environment, working folder, mask": (
        "import os\nos.environ['SIGN'] = os.putenv('SIGN2', 'x') or 'x'\nos.mkdir('/tmp/d')\nos.chdir('/tmp/d')\n"
        "os.umask(0o7)",
        "import os\nprint(sorted(os.environ), os.getcwd(), os.umask(0))",
    ),
    "shared memory and queues": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print(libc.shmget(25, 4096, 0o1600), libc.semget(25, 1, 0o1600), libc.msgget(25, 0o1600))\n"
        "print(libc.shm_open(b'/sign', 0o102, 0o600), libc.mq_open(b'/sign', 0o102, 0o600, None),\n"
        "  libc.sem_open(b'/sign', 0o100, 0o600, 1))",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print(libc.shmget(25, 4096, 0), libc.semget(25, 1, 0), libc.msgget(25, 0))\n"
        "print(libc.shm_open(b'/sign', 0, 0), libc.mq_open(b'/sign', 0), libc.sem_open(b'/sign', 0))",
    ),
    "what a descriptor points at": (
        "import os\nfor fd in range(64):\n  for how in (lambda: os.lseek(fd, 77, 0), lambda: os.ftruncate(fd, 777),\n"
        "      lambda: os.set_blocking(fd, False), lambda: os.pwrite(fd, b'sign', 4000)):\n    try: how()\n"
        "    except OSError: pass",
        "import os\nfor fd in range(3, 64):\n"
        "  try: print(fd, os.fstat(fd).st_size, os.lseek(fd, 0, 1), os.get_blocking(fd))\n"
        "  except OSError: pass",
    ),
    "limits, priority, timers": (
        "import os, resource, signal\n"
        "for how in (lambda: os.nice(5), lambda: signal.setitimer(signal.ITIMER_REAL, 99), "
        "lambda: signal.signal(15, signal.SIG_IGN),\n"
        "    lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [10]), lambda: os.sched_setaffinity(0, {0})):\n"
        "  try: how()\n  except OSError: pass",
        "import os, resource, signal\nprint(signal.getitimer(signal.ITIMER_REAL), signal.getsignal(15),\n"
        "  signal.pthread_sigmask(signal.SIG_BLOCK, []), resource.getrlimit(resource.RLIMIT_STACK),\n"
        "  os.sched_getaffinity(0))",
    ),
    "modules, caches, hooks": (
        "import sys, builtins, atexit, re, linecache\nbuiltins.sign = sys.sign = re.sign = 1\n"
        "linecache.cache['sign'] = 1\n"
        "sys.modules['sign'] = sys\natexit.register(print, 'sign')\nsys.path.append('sign')\nsys.setrecursionlimit(99)",
        "import sys, builtins, re, linecache\n"
        "print(hasattr(builtins, 'sign'), hasattr(sys, 'sign'), hasattr(re, 'sign'), len(linecache.cache),\n"
        "  'sign' in sys.modules, sys.path, sys.getrecursionlimit())",
    ),
    "the seed of hashes": (
        "import random\n[random.random() for _ in range(1000)]\nrandom.seed(5)",
        "print(hash('a'), [*{'a', 'b', 'c'}])",
    ),
}

# Sources that make the compiler warn. Each is different, so nothing can be cached.
WARNINGS = tuple(
    "\n".join(f"x{line} = {line} is {number} or '\\q{number}'" for line in range(400)) + "\nprint(int(input()) ** 2)"
    for number in range(200)
)
FLOODS = tuple(f"print('{n:09d}' * 800_000)" for n in range(20))
SPOILED = (
    "import os\nos.makedirs('/tmp/' + '/'.join('d' * 20))\nprint(int(input()) ** 2)",
    "for n in range(2000): open('/tmp/%d' % n, 'w').close()\nprint(int(input()) ** 2)",
    "x = bytearray(b'x') * 10**8\nprint(int(input()) ** 2)",
    "import threading\nfor _ in range(20): threading.Thread(target=print).start()\nprint(int(input()) ** 2)",
)
