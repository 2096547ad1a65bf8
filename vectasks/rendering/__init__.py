"""Show tasks: images, windows, videos.

- :mod:`vectasks.rendering.tiles`: many images as one, in pure numpy.
- :mod:`vectasks.rendering.window`: the window of ``render("human")``.
- :mod:`vectasks.rendering.video`: :class:`~vectasks.rendering.video.VideoRecorder`, built on
  :mod:`~vectasks.rendering.episode_captions` (what captions tell),
  :mod:`~vectasks.rendering.film` (one video file, and the thread that writes it) and
  :mod:`~vectasks.rendering.encoders`.
- :mod:`vectasks.rendering.notebook`: videos in a notebook's page.

Nothing is imported here: the vector uses the tiles, and must not draw in the recorder, which is
built on it.
"""
