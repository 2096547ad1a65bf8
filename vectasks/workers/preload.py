"""Imported last by the forkserver, before the first worker is forked.

What is in memory by now is frozen out of the garbage collector's sight: a collection in a worker
would write into every page that the workers share with the forkserver, and so copy it.
"""

import gc

gc.collect()
gc.freeze()
