"""Around the loop: signals that ask it to stop, and a count of what it compiles."""

import contextlib
import os
import signal
import threading

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPING = b"\nstopping: what the last whole update left is saved\n"


class Stop(KeyboardInterrupt):
    """A signal asked the run to end."""


class Interrupt:
    """SIGTERM, SIGINT and SIGHUP end whatever can be had again, by raising ``Stop``.

    That is loading, rollouts and evaluations. An update and a save are ``held``: they
    are finished first. A signal behind the first raises nothing more: what ends the run
    must not be cut short itself. A SIGHUP that is ignored (nohup) stays ignored.
    """

    def __init__(self):
        self.asked = self._raised = False
        self._held, self._before = 0, {}

    def __enter__(self):
        # Handlers can only be set in the main thread; a notebook cell runs in it too.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame):
        if not self.asked:
            # Not the console: its buffer may be the very place that was interrupted.
            with contextlib.suppress(OSError):
                os.write(2, STOPPING)
        self.asked = True
        if not self._held and not self._raised:
            self.check()

    @contextlib.contextmanager
    def held(self):
        """Nothing inside is cut short; ``check`` tells what was asked meanwhile."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def check(self) -> None:
        """Raises ``Stop`` where a signal has asked for it, maybe in vain.

        An exception raised in a destructor or a callback goes nowhere.
        """
        if self.asked:
            self._raised = True
            raise Stop

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class CompileCounter:
    """Programs handed to XLA while it is active, and the seconds that they took; those
    read from the persistent cache count too, since they were needed."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0

    def __call__(self, name: str, seconds: float, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += seconds

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self)
