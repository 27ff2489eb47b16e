"""Around the loop: signals that ask it to stop, and a count of what it compiles."""

import signal
import threading

import jax


class Interrupt:
    """SIGTERM and SIGINT ask the loop to stop after the update in hand."""

    def __init__(self):
        self.asked = False
        self._before = {}

    def __enter__(self):
        # Handlers can only be set in the main thread; a notebook cell runs in it too.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

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
