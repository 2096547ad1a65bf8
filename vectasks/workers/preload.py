"""Imported last by the fork server, before the first worker is forked.

What is in memory by now is frozen out of the garbage collector's sight: a collection in a worker
would write into every page that the workers share with the fork server, and so copy it.
"""

import gc

gc.collect()
gc.freeze()
