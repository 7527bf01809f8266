# Fifth part: the zygote. It imports what models of a flavour need, never the model, and forks workers from itself: one
# starts in a fraction of the time, and shares what was imported. It is confined as its workers are, has one thread, and
# nothing of any request.

REAP = 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Access rights of Landlock, by the version that knows them.
RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
READ, FILES, EXECUTE, DEVICE = 0xD, 0xC007, 0x1, 0x8006


class Kernel:
    """System calls that the standard library lacks."""

    def __init__(self):
        import ctypes

        self.ctypes = ctypes
        self.libc = ctypes.CDLL(None, use_errno=True)

    def checked(self, what, done):
        if done < 0:
            raise OSError(self.ctypes.get_errno(), what)
        return done

    def prctl(self, option, value):
        long = self.ctypes.c_ulong
        self.checked("prctl", self.libc.prctl(option, long(value), long(0), long(0), long(0)))

    def landlock(self, readable, devices, private):
        """One more layer: a worker reaches neither the zygote nor its siblings, by file or by signal."""
        ctypes = self.ctypes
        long = ctypes.c_long
        version = self.libc.syscall(long(444), None, long(0), long(1))
        if version < 1:
            # The launcher has said that there is no Landlock, and went on or did not.
            return
        rights = RIGHTS.get(version, RIGHTS[5])
        attributes = struct.pack("<QQQ", rights, 0, 3 if version >= 6 else 0)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        rules = self.checked("landlock", self.libc.syscall(long(444), attributes, long(size), long(0)))
        granted = [(path, READ) for path in readable]
        granted += [(path, DEVICE) for path in devices]
        granted.append((private, rights & ~EXECUTE))
        for path, access in granted:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            if not os.path.isdir(path):
                access &= FILES
            rule = struct.pack("<Qi", access & rights, place)
            self.checked("landlock", self.libc.syscall(long(445), long(rules), long(1), rule, long(0)))
            os.close(place)
        self.checked("landlock", self.libc.syscall(long(446), long(rules), long(0)))
        os.close(rules)


class Zygote:
    def __init__(self, wire):
        import select
        import signal

        self.select, self.signal = select, signal
        self.wire = wire
        self.kernel = Kernel()
        self.pid = os.getpid()
        self.data, self.came = b"", []
        # Workers that are not buried yet; True while they live.
        self.workers = {}
        self.woken, self.wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake)
        # What a dead worker leaves behind comes to us.
        self.kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def prepare(self):
        import gc
        import importlib
        import random  # noqa: F401
        import tempfile  # noqa: F401

        _, request, payload = self.receive()
        os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
        for name in json.loads(payload)["imports"]:
            try:
                importlib.import_module(name)
            except Exception as problem:
                print(f"{name} is not imported beforehand: {problem}", file=sys.stderr, flush=True)
        try:
            # MLflow lists every file of every package at a model's load, to compare versions: half a second, once.
            from mlflow.utils import requirements_utils

            requirements_utils._init_modules_to_packages_map()
        except Exception:
            pass
        gc.collect()
        gc.freeze()
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            # A fork would copy locks that other threads hold.
            failed = {"type": "threads", "message": f"{threads} threads run after the imports"}
            self.wire.send(FAILED, request, json.dumps(failed).encode())
            os._exit(74)
        self.wire.send(READY, request, b"{}")

    def receive(self):
        """The next frame. Descriptors that came on the way are kept."""
        while len(self.data) < 4 or len(self.data) < 4 + U32.unpack_from(self.data)[0]:
            more, came, _, _ = socket.recv_fds(self.wire.socket, 1 << 16, 3)
            if not more:
                os._exit(0)
            self.data += more
            self.came.extend(came)
        length, kind, request = HEAD.unpack_from(self.data)
        payload = self.data[HEAD.size : 4 + length]
        self.data = self.data[4 + length :]
        return kind, request, payload

    def run(self):
        """Until the gateway is gone. A forked worker returns from here with its own socket."""
        while True:
            if not self.data:
                ready, _, _ = self.select.select([self.wire.socket, self.woken], [], [])
                if self.woken in ready:
                    os.read(self.woken, 4096)
                    self.look()
                if self.wire.socket not in ready:
                    continue
            kind, request, payload = self.receive()
            if kind == FORK:
                descriptors, self.came = self.came[:3], self.came[3:]
                try:
                    pid = os.fork()
                except OSError:
                    # Too many processes of this user: the gateway hears of it.
                    pid = -1
                if pid == 0:
                    return self.become_worker(json.loads(payload), descriptors)
                if pid > 0:
                    self.workers[pid] = True
                for descriptor in descriptors:
                    os.close(descriptor)
                self.wire.send(FORKED, request, json.dumps({"pid": pid}).encode())
            elif kind == REAP:
                self.bury(json.loads(payload)["pid"])
            else:
                os._exit(75)

    def become_worker(self, asked, descriptors):
        import random
        import tempfile

        own, out, err = descriptors
        self.signal.set_wakeup_fd(-1)
        self.signal.signal(self.signal.SIGCHLD, self.signal.SIG_DFL)
        self.wire.file.close()
        self.wire.socket.close()
        os.close(self.woken)
        os.close(self.wake)
        os.setsid()
        self.kernel.prctl(PR_SET_PDEATHSIG, self.signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        private = asked["private"]
        os.environ["HOME"] = os.environ["TMPDIR"] = private
        os.chdir(private)
        tempfile.tempdir = None
        self.kernel.landlock(asked["readable"], asked["devices"], private)
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        return Wire(own)

    def look(self):
        """Tells of workers that ended. They stay zombies until they are buried, so that nobody else gets their numbers."""
        for pid, lives in self.workers.items():
            if not lives:
                continue
            seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is not None:
                self.workers[pid] = False
                exited = seen.si_code == os.CLD_EXITED
                ended = {"pid": pid, "code" if exited else "signal": seen.si_status}
                self.wire.send(ENDED, 0, json.dumps(ended).encode())
        self.clear(living=False)

    def bury(self, pid):
        if pid in self.workers:
            del self.workers[pid]
            self.kill(pid)
            self.clear(living=True)

    def kill(self, pid):
        for act in (lambda: os.killpg(pid, 9), lambda: os.kill(pid, 9), lambda: os.waitpid(pid, 0)):
            try:
                act()
            except OSError:
                pass

    def clear(self, living):
        """Buries what has come to us from workers; ends it too when `living`: when a worker is gone."""
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) in self.workers:
                continue
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rsplit(")", 1)[1].split()[:2]
            except (OSError, ValueError):
                continue
            if int(parent) == self.pid and (living or state == "Z"):
                self.kill(int(name))
