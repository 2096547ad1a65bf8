"""vectasks side by side with other vector environments: ``python -m benchmarks``.

The driver (this interpreter, standard library only) gives every library a virtual environment of
its own; each measurement is a fresh process of that environment which runs one adapter.
"""
