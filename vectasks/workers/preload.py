"""Imported last by the forkserver, before the first worker is forked.

What is in memory by now is frozen out of the garbage collector's sight: a collection in a worker
would write into every page that the workers share with the forkserver, and so copy it.

Ctrl-C was held back while the forkserver imported: it would have ended it with a traceback. What
was held back is dropped, for it was meant for the parent; the forkserver ignores it from now on.
"""

import gc
import signal

gc.collect()
gc.freeze()
_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
signal.signal(signal.SIGINT, _handler)
