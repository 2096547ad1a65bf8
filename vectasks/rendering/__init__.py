"""Looking at tasks.

- :mod:`vectasks.rendering.tiles`: many images as one, in pure numpy.
- :mod:`vectasks.rendering.window`: the window of ``render("human")``.
- :mod:`vectasks.rendering.video`: :class:`~vectasks.rendering.video.VideoRecorder`.

Nothing is imported here: the vector uses the tiles, and must not draw in the recorder, which is
built on it.
"""
